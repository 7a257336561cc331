"""From pairs of runs to effects and verdicts: pure functions of what the runs gave."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from danlu.core.clock import Budget
from danlu.maths.statistics import Paired, holm, paired
from danlu.recipe.recipe import Recipe
from danlu.stages.study.arms import Arm
from danlu.stages.study.runs import Done, Runs

Verdict = Literal["helps", "hurts", "no effect seen", "fails", "not known"]
Pair = tuple[Done, Done]
ALPHA = 0.05
WORTH_A_WORD = 0.01
"""the least change of speed or memory that a verdict mentions"""


def study_told(recipe: Recipe, arms: Sequence[Arm], runs: Runs) -> dict[str, Any]:
    """Everything that `study.json` holds."""
    pairs = {arm.technique.name(): [(runs.done(bare), runs.done(on)) for bare, on in arm.pairs] for arm in arms}
    better = recipe.task.better
    rows = [_row(arm, pairs[arm.technique.name()], recipe.task.judged, len(arms)) for arm in arms]
    for row, p in zip(rows, holm([row["effects"][recipe.task.judged]["p"] for row in rows]), strict=True):
        row["effects"][recipe.task.judged]["p_holm"] = p
        row["verdict"] = verdict(row, recipe.task.judged, better)
        row["words"] = in_words(row, recipe.task.judged)
    return {
        "name": recipe.name,
        "task": recipe.task.kind(),
        "judged": recipe.task.judged,
        "better": better,
        "seeds": [bare.seed for bare, _ in arms[0].pairs],
        "compute": compute_of(recipe.train.budget),
        "counts": _counts([runs.done(run) for run in runs.runs]),
        "techniques": rows,
        "runs": [_run(run.key, run.seed, run.label, runs.done(run), recipe.task.judged) for run in runs.runs],
    }


def compute_of(budget: Budget) -> str:
    """What is equal between the runs that are compared."""
    given = {name: value for name, value in budget.model_dump().items() if value is not None}
    limits = " or ".join(f"{value:g} {name}" for name, value in given.items())
    if "minutes" in given:
        return f"equal time: each run has {limits}, so what is slower sees less"
    return f"equal {' or '.join(given)}: each run has {limits}, however long they take"


def _row(arm: Arm, pairs: Sequence[Pair], judged: str, tests: int) -> dict[str, Any]:
    ended = [pair for pair in pairs if all(done.state == "finished" for done in pair)]
    names = [judged, *sorted({name for pair in ended for done in pair for name in done.scores} - {judged})]
    together = [pair for pair in ended if not any(done.apart for done in pair)]
    return {
        "name": arm.technique.name(),
        "options": arm.technique.model_dump(mode="json", by_alias=True),
        "in_recipe": arm.in_recipe,
        "effects": {name: _effect(ended, name, tests if name == judged else 1) for name in names},
        "speed": _ratio(together or ended, lambda done: done.tokens_per_second),
        "memory": _ratio(together or ended, lambda done: done.peak_memory_bytes),
        "steps": _ratio(ended, lambda done: done.steps),
        "seconds": _ratio(together or ended, lambda done: done.seconds),
        "disturbed": bool(ended) and not together,
        "failed": {"without": _failed(pairs, 0), "with": _failed(pairs, 1)},
        "pairs": [[bare.folder.name, on.folder.name] for bare, on in pairs],
    }


def _effect(pairs: Sequence[Pair], name: str, tests: int) -> dict[str, Any]:
    """The metric with less the metric without, over the pairs in which both are numbers."""
    both = [(bare.scores.get(name, math.nan), on.scores.get(name, math.nan)) for bare, on in pairs]
    both = [pair for pair in both if all(map(math.isfinite, pair))]
    found = paired([on - bare for bare, on in both], alpha=ALPHA, tests=tests)
    mean = lambda at: sum(pair[at] for pair in both) / len(both) if both else math.nan  # noqa: E731
    return {"without": mean(0), "with": mean(1), **_told(found)}


def _ratio(pairs: Sequence[Pair], of: Callable[[Done], float]) -> dict[str, Any]:
    """With over without: the geometric mean and its interval."""
    both = [(of(bare), of(on)) for bare, on in pairs]
    found = paired([math.log(on / bare) for bare, on in both if bare > 0 and on > 0])
    told = {name: math.exp(getattr(found, name)) for name in ("mean", "low", "high")}
    return {"ratio": told.pop("mean"), **told, "pairs": found.num}


def _told(found: Paired) -> dict[str, Any]:
    told = dataclasses.asdict(found)
    return {**told, "pairs": told.pop("num")}


def _failed(pairs: Sequence[Pair], at: int) -> list[str]:
    return [pair[at].reason for pair in pairs if pair[at].state == "failed"]


def verdict(row: Mapping[str, Any], judged: str, better: str) -> Verdict:
    """What the pairs say; `fails` where runs fail with the technique that do not fail without it, and none are left."""
    effect = row["effects"][judged]
    if effect["pairs"] < 2:
        return "fails" if len(row["failed"]["with"]) > len(row["failed"]["without"]) else "not known"
    if effect["p_holm"] >= ALPHA:
        return "no effect seen"
    return "helps" if (effect["mean"] < 0) == (better == "lower") else "hurts"


def in_words(row: Mapping[str, Any], judged: str) -> str:
    """The verdict in one line: `helps: −0.031 ± 0.008 loss, 4 % slower`."""
    effect, found = row["effects"][judged], row["verdict"]
    said = []
    if found in ("helps", "hurts"):
        said.append(f"{found}: {change(effect)} {judged}")
    elif found == "no effect seen" and effect["low"] == effect["high"] == 0:
        said.append("no effect: every score is the same to the last bit")
    elif found == "no effect seen":
        smallest = f"one of {effect['smallest']:.2g} would likely have been seen"
        said.append(f"no effect seen at this size: {change(effect)} {judged}; {smallest}")
    elif found == "not known":
        said.append(f"not known: {effect['pairs']} of {len(row['pairs'])} pairs have ended")
    else:
        said.append(found)
    said += _costs(row) if effect["pairs"] > 1 else []
    for which, reasons in row["failed"].items():
        if reasons:
            said.append(f"{len(reasons)} of {len(row['pairs'])} runs {which} it failed")
    return ", ".join(said)


def change(effect: Mapping[str, Any]) -> str:
    """`−0.0310 ± 0.0083`: the mean and half the 95 % interval, with two digits of the latter that matter."""
    half = (effect["high"] - effect["low"]) / 2
    scale = half if half > 0 else abs(effect["mean"]) or 1.0
    digits = max(0, 1 - math.floor(math.log10(scale)))
    mean = f"{effect['mean']:+.{digits}f}" if digits < 8 else f"{effect['mean']:+.2g}"
    reach = f"{half:.{digits}f}" if digits < 8 else f"{half:.1g}"
    return f"{mean} ± {reach}".replace("-", "−")


def _costs(row: Mapping[str, Any]) -> list[str]:
    """What is surely and noticeably different in speed, memory and steps."""
    said = []
    for name, more, less in (("speed", "faster", "slower"), ("memory", "more memory", "less memory")):
        if row["disturbed"] or abs(row[name]["ratio"] - 1) < WORTH_A_WORD:
            continue
        if not row[name]["low"] <= 1 <= row[name]["high"]:
            said.append(_by(row[name]["ratio"], more, less))
    if abs(row["steps"]["ratio"] - 1) >= WORTH_A_WORD:
        said.append(_by(row["steps"]["ratio"], "more steps", "fewer steps"))
    return said


def _by(ratio: float, more: str, less: str) -> str:
    return f"{100 * abs(ratio - 1):.0f} % {more if ratio > 1 else less}"


def _counts(found: Sequence[Done]) -> dict[str, int]:
    counts = {state: sum(done.state == state for done in found) for state in ("finished", "failed", "waiting")}
    return {**counts, "reused": sum(done.reused for done in found)}


def _run(key: str, seed: int, label: str, done: Done, judged: str) -> dict[str, Any]:
    return {
        "key": key,
        "seed": seed,
        "label": label,
        "state": done.state,
        "reused": done.reused,
        "folder": str(done.folder),
        "reason": done.reason,
        "score": done.scores.get(judged, math.nan),
        "steps": done.steps,
        "seconds": done.seconds,
        "tokens_per_second": done.tokens_per_second,
        "peak_memory_bytes": done.peak_memory_bytes,
    }
