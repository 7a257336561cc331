"""Decision: sets of objects with the worth of every action, and plain vectors with the return to come."""

import json
import random
from pathlib import Path

import numpy as np

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.config import DataConfig
from danlu.tasks.decision import Decision

from .case import Case, make_case

ACTIONS = 3


def of_recorded(outputs: Outputs, batch: Batch) -> dict[str, float]:
    """One row after the other, without torch."""
    logits_BA, actions = outputs.logits.double().numpy(), batch.labels["actions"].tolist()
    worths = batch.labels["scores"].double().tolist() if "scores" in batch.labels else [None] * len(actions)
    losses, right, regrets = [], [], []
    for logits_A, action, worth in zip(logits_BA, actions, worths, strict=True):
        chances = np.exp(logits_A) / np.exp(logits_A).sum()
        chosen = max(range(ACTIONS), key=lambda at: logits_A[at])
        right.append(chosen == action)
        if worth is None:
            losses.append(-np.log(chances[action]))
            continue
        wanted = np.exp((np.array(worth) - max(worth)) / 0.1)
        losses.append(-sum(wanted / wanted.sum() * np.log(chances)))
        regrets.append(max(worth) - worth[chosen])
    found = {"loss": float(np.mean(losses)), "accuracy": sum(right) / len(right)}
    return found | ({"regret": float(np.mean(regrets))} if regrets else {})


def _rows(shape: tuple[int, ...], *, scored: bool) -> list[dict[str, object]]:
    draw = random.Random(3)
    rows = []
    for _ in range(8):
        steps = draw.randrange(3, 9)
        row: dict[str, object] = {
            "observations": [np.reshape([draw.gauss(0, 1) for _ in range(8)], shape).tolist() for _ in range(steps)],
            "actions": [draw.randrange(ACTIONS) for _ in range(steps)],
            "rewards": [draw.random() for _ in range(steps)],
        }
        if scored:
            row["scores"] = [[draw.random() for _ in range(ACTIONS)] for _ in range(steps)]
        rows.append(row)
    return rows


def _made(folder: Path, task: Decision, shape: tuple[int, ...], *, scored: bool) -> Case:
    rows = _rows(shape, scored=scored)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(train=str(path), valid="40%", context=3)
    asked = [{name: row[name] for name in ("observations", "actions", "rewards")} for row in rows]
    return make_case(task, data, "policy", of_recorded, asked=asked, options={})


CASES = {
    "objects": lambda folder: _made(folder, Decision(actions=("left", "idle", "right")), (4, 2), scored=True),
    "return": lambda folder: _made(folder, Decision(objective="return", past_actions=True), (8,), scored=False),
}
