"""The page of a search: what was found, how the search went, what mattered; made from tune.json alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from danlu.stages.report.charts import HEIGHT, WIDTH, Axis
from danlu.stages.report.html import render, sheet
from danlu.stages.report.words import count, duration, label, shown, significant, tick

Told = Mapping[str, Any]
MOST_SLICES = 12
ROOM = 0.06


def page(told: Told, *, folder: Path) -> str:
    """The whole page as text; it loads nothing and runs no script.

    Args:
        told: the content of `tune.json`.
    """
    parts = [
        ("best", "What was found", _best(told)),
        ("history", "Trial by trial", _history(told)),
        ("front", "The Pareto front", _front(told)),
        ("importance", "What mattered", _importance(told)),
        ("slices", "Each key by itself", _slices(told)),
        ("trials", "All trials", render("tune_trials", rows=[_row(told, trial) for trial in told["trials"]])),
    ]
    return sheet("search", name=told["name"], lead=_lead(told), parts=parts, folder=folder)


def _lead(told: Told) -> str:
    counts = told["counts"]
    said = [f"{counts['finished']} of {sum(counts.values())} trials finished"]
    said += [f"{counts[state]} {word}" for state, word in _STATES.items() if counts[state]]
    return f"{', '.join(said)}; they trained for {duration(told['seconds'])} in all ({told['sampler']})."


_STATES = {"pruned": "were stopped early", "failed": "failed", "running": "are not at their end"}


def _best(told: Told) -> Markup | None:
    best = next((trial for trial in told["trials"] if trial["number"] == told["best"]), None)
    if best is None:
        return None
    return render(
        "tune_best",
        number=best["number"],
        scores=[(label(name), shown(name, value)) for name, value in best["scores"].items()],
        values=[(key, _text(value)) for key, value in best["values"].items()],
    )


def _history(told: Told) -> Markup | None:
    goal = told["objectives"][0]
    found = _scored(told, goal["name"], "finished", "pruned")
    if not found:
        return None
    sign = 1 if goal["better"] == "lower" else -1
    stairs: list[tuple[float, float]] = []
    for trial in found:
        score = trial["scores"][goal["name"]]
        if trial["state"] == "finished" and (not stairs or sign * score < sign * stairs[-1][1]):
            stairs.append((float(trial["number"]), score))
    last = float(told["trials"][-1]["number"])
    x_axis = Axis(low=0.0, high=max(1.0, last))
    return _scatter(
        [_dot(told, trial, trial["number"], trial["scores"][goal["name"]]) for trial in found],
        title=label(goal["name"]),
        caption="One dot a trial, pruned ones pale; the line is the best so far.",
        x_axis=x_axis,
        x_ticks=[(x_axis.place(at), f"{at:.0f}") for at in x_axis.ticks(6) if at == int(at)],
        stairs=[*stairs, (last, stairs[-1][1])] if stairs else [],
        y_name=goal["name"],
    )


def _front(told: Told) -> Markup | None:
    names = [goal["name"] for goal in told["objectives"]]
    found = _scored(told, names[-1], "finished")
    if len(names) < 2 or not found:
        return None
    charts = [_front_of(told, found, names[0], other) for other in names[1:]]
    return Markup("").join(charts)


def _front_of(told: Told, found: Sequence[Told], first: str, other: str) -> Markup:
    x_axis = _axis([trial["scores"][other] for trial in found])
    front = sorted((t["scores"][other], t["scores"][first]) for t in found if t["number"] in told["front"])
    return _scatter(
        [_dot(told, trial, trial["scores"][other], trial["scores"][first]) for trial in found],
        title=f"{label(first)} against {label(other)}",
        caption="No trial is better than those on the line in every objective.",
        x_axis=x_axis,
        x_ticks=[(x_axis.place(at), tick(count(at))) for at in x_axis.ticks(5)],
        line=front if len(told["objectives"]) == 2 else [],
        y_name=first,
    )


def _importance(told: Told) -> Markup | None:
    if not any(told["importance"].values()):
        return None
    bars = [
        (label(name), [(key, round(100 * share, 1)) for key, share in shares.items()])
        for name, shares in told["importance"].items()
    ]
    return render("tune_bars", bars=bars)


def _slices(told: Told) -> Markup | None:
    name = told["objectives"][0]["name"]
    found = _scored(told, name, "finished")
    if len(found) < 2:
        return None
    shares = told["importance"].get(name, {})
    keys = sorted(told["space"], key=lambda key: -shares.get(key, 0.0))[:MOST_SLICES]
    return Markup('<div class="small">{}</div>').format(Markup("").join(_slice(told, found, key, name) for key in keys))


def _slice(told: Told, found: Sequence[Told], key: str, name: str) -> Markup:
    written = told["space"][key]
    if isinstance(written, list):
        places = {_text(value): (at + 0.5) / len(written) for at, value in enumerate(written)}
        x_axis, xs = Axis(low=0.0, high=1.0), [places[_text(trial["values"][key])] for trial in found]
        ticks = [(at, text) for text, at in places.items()]
    else:
        xs = [float(trial["values"][key]) for trial in found]
        x_axis = _axis(xs, log=written.startswith("log"))
        ticks = [(x_axis.place(at), tick(significant(at))) for at in x_axis.ticks(4)]
    dots = [_dot(told, trial, x, trial["scores"][name]) for trial, x in zip(found, xs, strict=True)]
    return _scatter(dots, title=key, caption="", x_axis=x_axis, x_ticks=ticks, y_name=name)


def _scatter(
    dots: Sequence[Told],
    *,
    title: str,
    caption: str,
    x_axis: Axis,
    x_ticks: Sequence[tuple[float, str]],
    y_name: str,
    line: Sequence[tuple[float, float]] = (),
    stairs: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Dots with a title each, and perhaps a line through some; `y_name` is the metric upwards."""
    y_axis = _axis([dot["y"] for dot in dots])
    place = lambda x, y: f"{WIDTH * x_axis.place(x):.1f} {HEIGHT - HEIGHT * y_axis.place(y):.1f}"  # noqa: E731
    path = "M" + " L".join(place(x, y) for x, y in line) if len(line) > 1 else ""
    for at, (x, y) in enumerate(stairs):
        path += f"M{place(x, y)}" if at == 0 else f"L{place(x, stairs[at - 1][1])}L{place(x, y)}"
    return render(
        "tune_scatter",
        title=title,
        caption=caption,
        dots=[{**dot, "at": place(dot["x"], dot["y"])} for dot in dots],
        path=path,
        x_ticks=[(round(100 * at, 2), text) for at, text in x_ticks],
        y_ticks=[(round(100 - 100 * y_axis.place(at), 2), tick(shown(y_name, at))) for at in y_axis.ticks(5)],
        spoken=f"{title}: {len(dots)} trials",
    )


def _axis(values: Sequence[float], *, log: bool = False) -> Axis:
    low, high = min(values), max(values)
    if log:
        return Axis(low=low / 1.2, high=high * 1.2, log=True)
    room = ROOM * (high - low) or abs(high) * 0.1 or 1.0
    return Axis(low=low - room, high=high + room)


def _dot(told: Told, trial: Told, x: float, y: float) -> dict[str, Any]:
    said = ", ".join(f"{key} {_text(value)}" for key, value in trial["values"].items())
    style = "accent" if trial["number"] in told["front"] else "quiet" if trial["state"] == "pruned" else "plain"
    return {
        "x": float(x),
        "y": float(y),
        "style": style,
        "title": f"trial {trial['number']}: {significant(y, 4)}; {said}",
    }


def _scored(told: Told, name: str, *states: str) -> list[Told]:
    return [trial for trial in told["trials"] if trial["state"] in states and name in trial["scores"]]


def _row(told: Told, trial: Told) -> dict[str, Any]:
    return {
        "number": trial["number"],
        "run": f"{trial['run']}/report.html",
        "state": trial["state"],
        "best": trial["number"] in told["front"],
        "scores": ", ".join(shown(name, value) for name, value in trial["scores"].items()),
        "values": [(key, _text(value)) for key, value in trial["values"].items()],
        "seconds": duration(trial["seconds"]),
        "reason": trial["reason"] if trial["state"] in ("failed", "pruned") else "",
    }


def _text(value: object) -> str:
    if isinstance(value, float):
        return significant(value)
    return value if isinstance(value, str) else json.dumps(value)
