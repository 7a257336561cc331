"""Recommendation: the next item with a decoder and with HSTU, masked items with an encoder, ratings."""

import math
import random
from pathlib import Path

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.config import DataConfig
from danlu.tasks.recommendation import Recommendation

from .case import Case, make_case

NUM_ITEMS, NUM_USERS = 25, 40
KS = (2, 5)
TOP = 4


def last_row(outputs: Outputs, batch: Batch, at: int) -> tuple[list[float], int]:
    """The scores at the one place of a row that has a label, and the label."""
    labels = batch.labels["tokens"][at].tolist()
    (place,) = [place for place, label in enumerate(labels) if label != -100]
    return outputs.logits[at, place].double().tolist(), labels[place]


def log_loss(scores: list[float], target: int) -> float:
    return math.log(sum(math.exp(score) for score in scores)) - scores[target]


def of_lists(outputs: Outputs, batch: Batch) -> dict[str, float]:
    """By sorting, user by user."""
    found: dict[str, list[float]] = {}
    losses, chosen, places = [], set(), []
    for at in range(batch.num_rows):
        scores, target = last_row(outputs, batch, at)
        losses.append(log_loss(scores, target))
        seen = set(batch.labels["seen"][at].tolist())
        everything = sorted(range(2, len(scores)), key=lambda token: -scores[token])
        unseen = [token for token in everything if token not in seen]
        chosen |= set(unseen[:TOP])
        places += [token - 2 for token in unseen[:TOP]]
        for rule, order in (("", everything), ("_unseen", unseen)):
            rank = order.index(target) + 1 if target in order else math.inf
            for k in KS:
                hit = rank <= k
                found.setdefault(f"hr@{k}{rule}", []).append(float(hit))
                found.setdefault(f"mrr@{k}{rule}", []).append(1 / rank if hit else 0.0)
                found.setdefault(f"ndcg@{k}{rule}", []).append(1 / math.log2(rank + 1) if hit else 0.0)
    num_items = len(scores) - 2
    return {
        **{name: sum(values) / len(values) for name, values in found.items()},
        f"coverage@{TOP}": len(chosen) / num_items,
        f"popularity@{TOP}": sum(1 - place / (num_items - 1) for place in places) / len(places),
        "loss": sum(losses) / len(losses),
    }


def of_ratings(outputs: Outputs, batch: Batch) -> dict[str, float]:
    losses, errors = [], []
    for at in range(batch.num_rows):
        scores, target = last_row(outputs, batch, at)
        losses.append(log_loss(scores, target))
        weights = [math.exp(score) for score in scores[2:7]]  # the levels 1 to 5
        expected = sum(level * weight for level, weight in enumerate(weights, 1)) / sum(weights)
        errors.append(expected - batch.labels["ratings"][at].item())
    return {
        "rmse": math.sqrt(sum(error**2 for error in errors) / len(errors)),
        "mae": sum(map(abs, errors)) / len(errors),
        "loss": sum(losses) / len(losses),
    }


def _made(folder: Path, objective: str, family: str, reference) -> Case:
    draw = random.Random(1)
    rows, asked = ["user_id,item_id,rating,timestamp"], []
    for user in range(NUM_USERS):
        items = [draw.randrange(NUM_ITEMS) for _ in range(draw.randrange(3, 14))]
        ratings = [draw.randrange(1, 6) if user else place % 5 + 1 for place in range(len(items))]
        rows += [
            f"{user},{item},{rating},{place}" for place, (item, rating) in enumerate(zip(items, ratings, strict=True))
        ]
        history = {"history": list(map(str, items)), "ratings": ratings, "item": str(items[0])}
        asked.append(history if objective == "rating" else {"history": history["history"]})
    path = folder / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    task = Recommendation(objective=objective, k=KS, top=TOP)
    data = DataConfig(train=str(path), context=8)
    return make_case(task, data, family, reference, asked=asked, options={"context": 8})


CASES = {
    "next": lambda folder: _made(folder, "next", "llama", of_lists),
    "hstu": lambda folder: _made(folder, "next", "hstu", of_lists),
    "masked": lambda folder: _made(folder, "masked", "bert", of_lists),
    "rating": lambda folder: _made(folder, "rating", "llama", of_ratings),
}
