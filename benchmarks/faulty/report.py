"""Tables of the fault benchmark, and its measures beside the goals and the best published numbers."""

import dataclasses
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from faulty.faults import FAULTS, Cell
from faulty.measures import Results, Verdict, false_alarms, precision_of, rescue_by_stopping
from faulty.tasks import TASKS

GOALS = (
    ("faults detected", ">= 95 %", "90 % (DeepFD), 23 % (AutoTrainer), on 52 programs"),
    ("first diagnosis correct", ">= 80 %", "52 %, 19 %"),
    ("diagnosis precision", ">= .8", ".37"),
    ("cells that meet their criterion", ">= 90 %", "none measured"),
    ("false alarms in healthy runs", "0", "0 of 279, self-reported"),
    ("runs made worse", "<= 1 %", "2.7 %"),
    ("compute of a rescued run", "<= 1.3x healthy", "2.14x"),
)


@dataclasses.dataclass(frozen=True)
class Told:
    """Text for people, and the same numbers for programs."""

    text: str
    numbers: dict[str, Any]


def table_of(results: Results, chosen: Sequence[Cell], policies: Sequence[str]) -> str:
    """One line a cell: scores, p, R of every policy, and whether danlu met the row's criterion."""
    rivals = [policy for policy in policies if policy != "danlu"]
    head = [
        "row",
        "fault",
        "task",
        "half",
        "healthy",
        "faulty",
        "danlu",
        "p",
        "R danlu",
        *rivals,
        "smdebug",
        "compute",
        "met",
        "why",
    ]
    rows = [head]
    for cell in sorted(chosen, key=lambda cell: FAULTS[cell.fault].row):
        mine = results.verdict(cell, "danlu")
        if mine is None:
            continue
        others = [results.verdict(cell, policy) for policy in rivals]
        rows.append(
            [
                str(FAULTS[cell.fault].row),
                cell.fault,
                cell.task,
                "held out" if cell.held_out else "chosen",
                *(f"{value:.4f}" for value in (mine.healthy, mine.faulty, mine.controlled)),
                "" if math.isnan(mine.p) else f"{mine.p:.3f}",
                _ratio(mine.rescue),
                *(_ratio(other.rescue if other else math.nan) for other in others),
                _ratio(rescue_by_stopping(results, cell)),
                _ratio(mine.compute),
                "yes" if mine.met else "NO",
                mine.why,
            ]
        )
    return _aligned(rows)


def measures_of(results: Results, chosen: Sequence[Cell], policies: Sequence[str]) -> Told:
    """The measures on the half that is held out, beside the other half's and the goals."""
    numbers: dict[str, Any] = {}
    rows = [["measure", "held out", "chosen", "goal", "best published"]]
    halves = [_half(results, [cell for cell in chosen if cell.held_out == held]) for held in (True, False)]
    healthy = [*results.varied, *(out for out in results.healthy if out.job.policy == "danlu")]
    alarms = false_alarms(healthy)
    for name, goal, published in GOALS:
        if name == "false alarms in healthy runs":
            numbers[name] = {"alarms": len(alarms), "runs": len(healthy)}
            told = [f"{len({id(out) for out, _ in alarms})} of {len(healthy)} runs", ""]
        else:
            numbers[name] = {"held out": halves[0].get(name), "chosen": halves[1].get(name)}
            told = [_number(name, half.get(name)) for half in halves]
        rows.append([name, *told, goal, published])
    lines = [_aligned(rows), *_harm_to_healthy(results)]
    lines += [
        f"  false alarm: {out.job.task} {'seed' if out.job.variation is None else 'variation'} {out.job.seed} "
        f"(score {out.score:.3f}) step {finding['step']} {finding['name']} {finding['evidence']}"
        for out, finding in alarms
    ]
    numbers["rescue"] = _mean_rescues(results, chosen, policies)
    lines += [f"mean R over cells that are hurt, clipped to [-1, 1]: {numbers['rescue']}"]
    return Told("\n".join(lines), numbers)


def _half(results: Results, part: Sequence[Cell]) -> dict[str, float]:
    verdicts = [verdict for cell in part if (verdict := results.verdict(cell, "danlu")) is not None]
    counted = [verdict for verdict in verdicts if verdict.hurts or FAULTS[verdict.cell.fault].also]
    if not counted:
        return {}
    right, total = precision_of(out for verdict in counted for out in results.of(verdict.cell, "danlu"))
    compute = [verdict.compute for verdict in counted if not math.isnan(verdict.compute) and verdict.met]
    return {
        "cells": len(counted),
        "faults detected": fmean(verdict.detected for verdict in counted),
        "first diagnosis correct": fmean(verdict.first_right for verdict in counted),
        "diagnosis precision": right / total if total else math.nan,
        "cells that meet their criterion": fmean(verdict.met for verdict in counted),
        "runs made worse": sum(verdict.worse for verdict in verdicts) / sum(verdict.runs for verdict in verdicts),
        "compute of a rescued run": fmean(compute) if compute else math.nan,
    }


def _harm_to_healthy(results: Results) -> list[str]:
    """Healthy runs under danlu against the same runs left alone."""
    told = []
    for task in TASKS:
        pair = [
            [out.score for out in results.healthy if out.job.task == task and out.job.policy == policy]
            for policy in ("off", "danlu")
        ]
        if all(pair):
            told.append(f"healthy {task}: left alone {fmean(pair[0]):.4f}, under danlu {fmean(pair[1]):.4f}")
    return told


def _mean_rescues(results: Results, chosen: Sequence[Cell], policies: Sequence[str]) -> dict[str, float]:
    found: dict[str, list[float]] = {policy: [] for policy in (*policies, "smdebug")}
    for cell in chosen:
        ratios = {policy: _rescue(results.verdict(cell, policy)) for policy in policies}
        ratios["smdebug"] = rescue_by_stopping(results, cell)
        for policy, ratio in ratios.items():
            if not math.isnan(ratio):
                found[policy].append(max(-1.0, min(1.0, ratio)))
    return {policy: round(fmean(ratios), 3) for policy, ratios in found.items() if ratios}


def _rescue(verdict: Verdict | None) -> float:
    return math.nan if verdict is None else verdict.rescue


def _number(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    if name.startswith("compute"):
        return f"{value:.2f}x"
    return f"{value:.2f}" if "precision" in name else f"{100 * value:.1f} %"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
