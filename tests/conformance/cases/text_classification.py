"""Text classification: two labels, three, several at once, numbers; encoders and a decoder, single texts and pairs."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.config import DataConfig, TokenizerConfig
from danlu.tasks.text_classification import TextClassification

from .case import Case, make_case

WORDS = ("lovely", "great", "awful", "itchy", "plain", "dress", "fits", "work", "town", "shoes")


Label = Callable[[random.Random], object]
Reference = Callable[[Outputs, Batch], dict[str, float]]


def auroc(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Over all pairs of a row of the class and another: how often the first scores higher; ties count a half."""
    ours = [score for score, real in zip(scores, truth, strict=True) if real]
    others = [score for score, real in zip(scores, truth, strict=True) if not real]
    if not ours or not others:
        return math.nan
    wins = sum((one > two) + 0.5 * (one == two) for one in ours for two in others)
    return wins / (len(ours) * len(others))


def mean_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known)


def f1(chosen: Sequence[bool], truth: Sequence[bool]) -> float:
    """2 TP / (2 TP + FP + FN); NaN when the class neither occurs nor is chosen."""
    hits = sum(one and two for one, two in zip(chosen, truth, strict=True))
    whole = sum(chosen) + sum(truth)
    return 2 * hits / whole if whole else math.nan


def calibration(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Bin by bin."""
    total = 0.0
    for at in range(15):
        inside = [
            (confidence, right)
            for confidence, right in zip(confidences, correct, strict=True)
            if at / 15 < confidence <= (at + 1) / 15 or (at == 0 and confidence == 0)
        ]
        if inside:
            sure, right = (sum(part) / len(inside) for part in zip(*inside, strict=True))
            total += len(inside) / len(confidences) * abs(sure - right)
    return total


def correlation(one: Sequence[float], two: Sequence[float]) -> float:
    """Pearson's; 0 where one of them has no spread."""
    a, b = np.asarray(one, dtype=float), np.asarray(two, dtype=float)
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread else 0.0


def of_labels(outputs: Outputs, batch: Batch) -> dict[str, float]:
    logits, truth = outputs.logits.double().numpy(), batch.labels["classes"].tolist()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    chosen, classes = chances.argmax(1).tolist(), range(chances.shape[1])
    right = [one == two for one, two in zip(chosen, truth, strict=True)]
    areas = [auroc(chances[:, at].tolist(), [entry == at for entry in truth]) for at in classes]
    truth_NC, chosen_NC = np.eye(len(classes))[truth], np.eye(len(classes))[chosen]
    truth_NC, chosen_NC = truth_NC - truth_NC.mean(0), chosen_NC - chosen_NC.mean(0)  # Gorodkin's R_K as a covariance
    spread = math.sqrt((truth_NC**2).sum() * (chosen_NC**2).sum())
    return {
        "accuracy": sum(right) / len(right),
        "macro_f1": mean_known([f1([c == at for c in chosen], [t == at for t in truth]) for at in classes]),
        "auroc": areas[1] if len(classes) == 2 else mean_known(areas),
        "mcc": (truth_NC * chosen_NC).sum() / spread if spread else 0.0,
        "calibration_error": calibration(chances.max(1).tolist(), right),
        "loss": -sum(math.log(row[label]) for row, label in zip(chances, truth, strict=True)) / len(truth),
    }


def of_marks(outputs: Outputs, batch: Batch) -> dict[str, float]:
    chances = 1 / (1 + np.exp(-outputs.logits.double().numpy()))
    truth, chosen = batch.labels["marks"].numpy() > 0, chances >= 0.5
    columns = range(chances.shape[1])
    scores = [f1(chosen[:, at].tolist(), truth[:, at].tolist()) for at in columns]
    confidences = np.where(chosen, chances, 1 - chances)
    return {
        "subset_accuracy": float((chosen == truth).all(1).mean()),
        "accuracy": float((chosen == truth).mean()),
        "macro_f1": sum(0.0 if math.isnan(score) else score for score in scores) / len(scores),
        "auroc": mean_known([auroc(chances[:, at].tolist(), truth[:, at].tolist()) for at in columns]),
        "mcc": correlation(chosen.ravel().tolist(), truth.ravel().tolist()),
        "calibration_error": calibration(confidences.ravel().tolist(), (chosen == truth).ravel().tolist()),
        "loss": float(-np.log(np.where(truth, chances, 1 - chances)).mean()),
    }


def of_numbers(outputs: Outputs, batch: Batch) -> dict[str, float]:
    predicted, truth = outputs.logits[:, 0].double().numpy(), batch.labels["numbers"].double().numpy()
    errors = predicted - truth
    ranks = [
        [(values < value).sum() + (values == value).sum() / 2 for value in values] for values in (predicted, truth)
    ]
    return {
        "mae": float(np.abs(errors).mean()),
        "rmse": math.sqrt(float((errors**2).mean())),
        "r2": 1 - float((errors**2).sum() / ((truth - truth.mean()) ** 2).sum()),
        "pearson": correlation(predicted.tolist(), truth.tolist()),
        "spearman": correlation(*ranks),
        "loss": float((errors**2).mean()),
    }


def _made(
    folder: Path, label: Callable[[random.Random], object], family: str, reference, *, pair: bool = False
) -> Case:
    draw = random.Random(1)
    rows = []
    for _ in range(90):
        texts = [" ".join(draw.choices(WORDS, k=draw.randrange(2, 9))) for _ in range(2)]
        rows.append({"text": texts[0], **({"text_pair": texts[1]} if pair else {}), "label": label(draw)})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(train=str(path), valid="40%", context=64, tokenizer=TokenizerConfig(train="bpe", size=320))
    asked = [{name: row[name] for name in row if name != "label"} for row in rows[:40]]
    return make_case(TextClassification(), data, family, reference, asked=asked, options={"context": 64})


CASES = {
    "two": lambda folder: _made(folder, lambda draw: draw.choice(["no", "yes"]), "bert", of_labels, pair=True),
    "three": lambda folder: _made(folder, lambda draw: draw.choice([0, 1, 2]), "llama", of_labels),
    "several": lambda folder: _made(folder, lambda draw: draw.sample("abcd", draw.randrange(4)), "bert", of_marks),
    "number": lambda folder: _made(folder, lambda draw: draw.random() * 4, "bert", of_numbers, pair=True),
}
