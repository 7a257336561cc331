"""Metrics of classifiers and of regression, by torchmetrics: shared by the tasks that give labels or numbers.

Scores come as numpy arrays over all rows of an evaluation. What cannot be measured on them (AUROC where every row has
the same label) is NaN.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.core.extras import need
from danlu.maths.calibration import expected_calibration_error

LABEL_METRICS = ("accuracy", "macro_f1", "auroc", "mcc", "calibration_error", "loss")
LABELS_METRICS = ("subset_accuracy", "accuracy", "macro_f1", "auroc", "mcc", "calibration_error", "loss")
NUMBER_METRICS = ("mae", "rmse", "r2", "pearson", "spearman", "loss")
LOWER_IS_BETTER = ("loss", "calibration_error", "mae", "rmse")
MOST_CONFUSED = 50
"""classes up to which a confusion matrix is worth its room"""
MOST_LISTED = 200


def torchmetrics(part: str = "classification") -> Any:
    """`torchmetrics.functional.PART`.

    Raises:
        RequestError: torchmetrics is not installed.
    """
    return need(f"torchmetrics.functional.{part}", extra="classification", what="measuring a classifier")


def label_scores(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """One label a row: all of LABEL_METRICS but the loss.

    Accuracy; macro F1 over the classes that occur or were predicted; AUROC of the second of two classes, else the mean
    of each class against the rest; Matthews' correlation (Gorodkin 2004); calibration error of the likeliest class.
    """
    measure, num_classes = torchmetrics(), probabilities_NC.shape[1]
    scores, labels = torch.from_numpy(probabilities_NC), torch.from_numpy(labels_N)
    chosen = scores.argmax(1)
    confidences_N, correct_N = scores.max(1).values.numpy(), (chosen == labels).numpy()
    only = range(1, 2) if num_classes == 2 else range(num_classes)
    return {
        "accuracy": float(measure.multiclass_accuracy(chosen, labels, num_classes, average="micro")),
        "macro_f1": float(measure.multiclass_f1_score(chosen, labels, num_classes, average="macro")),
        "auroc": _mean([_auroc(scores[:, at], labels == at) for at in only]),
        "mcc": _mcc(measure.multiclass_matthews_corrcoef, chosen, labels, num_classes),
        "calibration_error": expected_calibration_error(confidences_N, correct_N),
    }


def top_accuracy(probabilities_NC: np.ndarray, labels_N: np.ndarray, top: int) -> float:
    """The share of rows whose class is among the `top` likeliest."""
    scores, labels = torch.from_numpy(probabilities_NC), torch.from_numpy(labels_N)
    num_classes = scores.shape[1]
    measure = torchmetrics().multiclass_accuracy
    return float(measure(scores, labels, num_classes, average="micro", top_k=min(top, num_classes)))


def marks_scores(probabilities_NC: np.ndarray, marks_NC: np.ndarray) -> dict[str, float]:
    """Any number of labels a row, each chosen at a probability of a half: all of LABELS_METRICS but the loss.

    `subset_accuracy` counts rows with every mark right, `accuracy` marks; macro F1 and AUROC are means over classes;
    correlation and calibration error are over all marks alike.
    """
    measure, num_classes = torchmetrics(), probabilities_NC.shape[1]
    scores, marks = torch.from_numpy(probabilities_NC), torch.from_numpy(marks_NC)
    chosen_NC = probabilities_NC >= 0.5
    chosen, right_NC = torch.from_numpy(chosen_NC.astype(np.int64)), chosen_NC == marks_NC
    confidences = np.where(chosen_NC, probabilities_NC, 1 - probabilities_NC)
    return {
        "subset_accuracy": float(right_NC.all(1).mean()),
        "accuracy": float(measure.multilabel_accuracy(chosen, marks, num_classes, average="micro")),
        "macro_f1": float(measure.multilabel_f1_score(chosen, marks, num_classes, average="macro")),
        "auroc": _mean([_auroc(scores[:, at], marks[:, at]) for at in range(num_classes)]),
        "mcc": _mcc(measure.multilabel_matthews_corrcoef, chosen, marks, num_classes),
        "calibration_error": expected_calibration_error(confidences.ravel(), right_NC.ravel()),
    }


def number_scores(predicted_N: np.ndarray, numbers_N: np.ndarray) -> dict[str, float]:
    """A number a row: all of NUMBER_METRICS but the loss. Correlations and R² need two rows and some spread."""
    measure = torchmetrics("regression")
    predicted, numbers = (torch.from_numpy(entry.astype(np.float64)) for entry in (predicted_N, numbers_N))
    errors = predicted - numbers
    spread = len(numbers) > 1 and float(numbers.std()) > 0
    varied = spread and float(predicted.std()) > 0
    return {
        "mae": float(errors.abs().mean()),
        "rmse": float(errors.square().mean().sqrt()),
        "r2": float(measure.r2_score(predicted, numbers)) if spread else math.nan,
        "pearson": float(measure.pearson_corrcoef(predicted, numbers)) if varied else math.nan,
        "spearman": float(measure.spearman_corrcoef(predicted, numbers)) if varied else math.nan,
    }


def class_tables(chosen: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> dict[str, object]:
    """`per_class` (precision, recall, F1 and rows of each class) and, for one label a row, `confusion` counts.

    Args:
        chosen: (N,) class numbers, or (N, C) marks.
        truth: the same of the data.
        names: the classes, in their order. Of more than 200 the most frequent are listed; a matrix has at most 50.
    """
    single, num_classes = truth.ndim == 1, len(names)
    chosen_NC, truth_NC = (np.eye(num_classes, dtype=bool)[entry] if single else entry > 0 for entry in (chosen, truth))
    hits_C, taken_C, real_C = ((a).sum(0) for a in (chosen_NC & truth_NC, chosen_NC, truth_NC))
    precision_C, recall_C = hits_C / np.maximum(taken_C, 1), hits_C / np.maximum(real_C, 1)
    f1_C = 2 * hits_C / np.maximum(taken_C + real_C, 1)
    listed = np.sort(np.argsort(-real_C, kind="stable")[:MOST_LISTED])
    rows = [
        [names[at], *(round(float(part[at]), 6) for part in (precision_C, recall_C, f1_C)), int(real_C[at])]
        for at in listed
    ]
    tables: dict[str, object] = {"per_class": {"columns": ["label", "precision", "recall", "f1", "rows"], "rows": rows}}
    if single and num_classes <= MOST_CONFUSED:
        counts = np.zeros((num_classes, num_classes), dtype=np.int64)
        np.add.at(counts, (truth, chosen), 1)
        tables["confusion"] = {"labels": list(names), "counts": counts.tolist()}
    return tables


def _auroc(scores_N: Tensor, truth_N: Tensor) -> float:
    """The chance that a row of the class scores above one that is not, ties counting a half; NaN without both."""
    truth_N = truth_N.to(torch.int64)
    if not 0 < int(truth_N.sum()) < len(truth_N):
        return math.nan
    return float(torchmetrics().binary_auroc(scores_N, truth_N))


def _mcc(measure: Any, chosen: Tensor, truth: Tensor, num_classes: int) -> float:
    """0 where one side says the same for all, as is customary; torchmetrics gives such a case a small number."""
    if any(bool((side == side.flatten()[0]).all()) for side in (chosen, truth)):
        return 0.0
    return float(measure(chosen, truth, num_classes))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
