"""The page of a study: verdicts, effects as a forest plot, all numbers, all runs; made from study.json alone."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from danlu.core.words import size
from danlu.stages.report.charts import WIDTH, Axis
from danlu.stages.report.html import render, sheet
from danlu.stages.report.words import duration, label, shown, significant, tick
from danlu.stages.study.effects import change

Told = Mapping[str, Any]
ROOM = 0.08
_SURE = ("helps", "hurts", "fails")


def page(told: Told, *, folder: Path) -> str:
    """The whole page as text; it loads nothing and runs no script.

    Args:
        told: the content of `study.json`.
    """
    parts = [
        ("found", "What was found", _found(told)),
        ("costs", "What it costs", _costs(told)),
        ("numbers", "All metrics", _numbers(told)),
        ("runs", "All runs", _runs(told, folder)),
    ]
    return sheet("study", name=told["name"], lead=_lead(told), parts=parts, folder=folder)


def _lead(told: Told) -> str:
    counts, judged = told["counts"], label(told["judged"])
    said = [f"{counts['finished']} of {len(told['runs'])} runs finished"]
    said += [f"{counts[state]} {word}" for state, word in _STATES.items() if counts[state]]
    return (
        f"Each technique is judged by {judged} ({told['better']} is better) on {len(told['seeds'])} seeds, "
        f"in pairs of runs with and without it, at {told['compute']}. {', '.join(said)}."
    )


_STATES = {"failed": "failed", "waiting": "have not come to their end", "reused": "are of an earlier study"}


def _found(told: Told) -> Markup:
    verdicts = [(row["name"], row["verdict"] in _SURE, row["words"]) for row in told["techniques"]]
    judged, side = told["judged"], "left" if told["better"] == "lower" else "right"
    rows = [_bar(row, row["effects"][judged], change(row["effects"][judged])) for row in _known(told)]
    caption = (
        "The mean over the seeds of the score with less the score without, and its 95 % interval (Student's t over the "
        "pairs). A verdict needs a p value below 0.05 after Holm's correction for the number of techniques."
    )
    legend = f"better is on the {side}"
    return render("study_verdicts", rows=verdicts) + _forest(rows, f"effect on {label(judged)}", legend, caption)


def _costs(told: Told) -> Markup | None:
    known = [row for row in _known(told) if row["speed"]["ratio"]]
    caption = "Tokens a second with over without, by pairs of runs that were neighbours in time."
    if any(row["disturbed"] for row in known):
        caption = "Disturbed: runs shared the machine, or are of different times. Take these for hints."
    text = lambda row: f"× {row['speed']['ratio']:.3f}"  # noqa: E731
    rows = [_bar(row, {**row["speed"], "mean": row["speed"]["ratio"]}, text(row), zero=1.0) for row in known]
    chart = _forest(rows, "effect on speed", "faster is on the right", caption, zero=1.0)
    heads = ["technique", "peak memory", "steps", "time"]
    cells = [[row["name"], *(_percent(row[name]) for name in ("memory", "steps", "seconds"))] for row in known]
    return chart + _table(heads, cells, "With against without; the 95 % interval in brackets.") if known else None


def _numbers(told: Told) -> Markup | None:
    rows = []
    for row in _known(told):
        for name, effect in row["effects"].items():
            if effect["pairs"] < 2:
                continue
            p = f"{effect['p']:.3g}" + (f" ({effect['p_holm']:.3g} by Holm)" if "p_holm" in effect else "")
            smallest = significant(effect["smallest"], 2)
            scores = (shown(name, effect["without"]), shown(name, effect["with"]))
            rows.append([row["name"], label(name), *scores, change(effect), p, smallest])
    heads = ["technique", "metric", "without", "with", "effect", "p", "smallest seen"]
    caption = (
        "Of the weights that each run left. Only the judged metric is corrected for the number of techniques; take the "
        "others for hints. The last column is the effect that would have been seen four times in five."
    )
    return _table(heads, rows, caption) if rows else None


def _runs(told: Told, folder: Path) -> Markup:
    rows = []
    for run in told["runs"]:
        link = os.path.relpath(Path(run["folder"]) / "report.html", folder) if run["state"] == "finished" else ""
        state = "of an earlier study" if run["reused"] else f"{run['state']}: {run['reason']}".rstrip(": ")
        numbers = [
            shown(told["judged"], run["score"]) if run["score"] is not None else "",
            duration(run["seconds"]) if run["seconds"] is not None else "",
            size(run["peak_memory_bytes"]) if run["peak_memory_bytes"] is not None else "",
        ]
        rows.append([(run["key"], link), *((str(cell), "") for cell in (run["seed"], run["label"], state, *numbers))])
    heads = ["run", "seed", "what", "end", label(told["judged"]), "time", "peak memory"]
    return render("study_table", heads=heads, rows=rows, caption="")


def _known(told: Told) -> list[Told]:
    return [row for row in told["techniques"] if row["effects"][told["judged"]]["pairs"] > 1]


def _bar(row: Told, effect: Told, text: str, *, zero: float = 0.0) -> dict[str, Any]:
    sure = row["verdict"] in _SURE if zero == 0 else not effect["low"] <= zero <= effect["high"]
    ends = {name: effect[name] for name in ("low", "mean", "high")}
    return {**ends, "name": row["name"], "style": "accent" if sure else "plain", "text": text}


def _forest(rows: Sequence[Told], title: str, legend: str, caption: str, *, zero: float = 0.0) -> Markup:
    if not rows:
        return Markup()
    low = min(zero, *(row["low"] for row in rows))
    high = max(zero, *(row["high"] for row in rows))
    room = ROOM * (high - low) or 0.1 * abs(zero) or 1.0
    axis = Axis(low=low - room, high=high + room)
    place = lambda value: round(WIDTH * axis.place(value), 1)  # noqa: E731
    return render(
        "study_forest",
        title=title,
        legend=legend,
        caption=caption,
        rows=[{**row, **{name: place(row[name]) for name in ("low", "mean", "high")}} for row in rows],
        zero=place(zero),
        ticks=[(round(100 * axis.place(at), 2), tick(significant(at))) for at in axis.ticks(5)],
        spoken=f"{title}: " + "; ".join(f"{row['name']} {row['text']}" for row in rows),
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Markup:
    return render("study_table", heads=heads, rows=[[(cell, "") for cell in row] for row in rows], caption=caption)


def _percent(ratio: Told) -> str:
    if not ratio["ratio"]:
        return ""
    mean, low, high = (f"{100 * (ratio[name] - 1):+.1f}".replace("-", "−") for name in ("ratio", "low", "high"))
    return f"{mean} % ({low} to {high})"
