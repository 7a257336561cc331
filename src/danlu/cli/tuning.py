"""What `danlu tune` reads from its command line and prints."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from danlu.core.words import duration

if TYPE_CHECKING:
    from danlu.recipe.recipe import Recipe
    from danlu.stages.tune.search import Search, Trial

MOST_ROWS = 10


def read_request(
    recipe: str, words: Sequence[str], section: str, *, out: Path | None, resume: bool, workers: int | None
) -> tuple["Recipe", Path | None]:
    """The recipe, and the folder of the search or study where given; with `resume` it may stand for its recipe."""
    from danlu.recipe.load import load_recipe

    source = Path(recipe)
    if resume and (source / "recipe.yaml").is_file():
        out, source = out or source, source / "recipe.yaml"
    overrides = [*words, *([] if workers is None else [f"{section}.workers={workers}"])]
    return load_recipe(source, overrides), out


def tell_trial(search: "Search", trial: "Trial") -> None:
    """One line for a trial that has ended."""
    best = any(trial.number == other.number for other in search.best())
    words = [f"trial {trial.number} {trial.state}", *(f"{name} {value:.4g}" for name, value in trial.scores.items())]
    words += [f"{key} {_text(value)}" for key, value in trial.values.items()]
    words += [duration(trial.seconds)]
    words += [trial.reason] if trial.state == "failed" else []
    words += ["on the front" if len(search.objectives) > 1 else "the best so far"] if best else []
    typer.secho(" · ".join(words), fg="green" if best else "yellow" if trial.state == "failed" else None)


def tell_results(results: Mapping[str, Any], folder: Path, stopped: str | None, *, table: bool) -> None:
    """The best trials in a table, what mattered, and where everything lies."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if table and results["front"]:
        console.print(_table(results))
        for name, shares in results["importance"].items():
            said = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
            console.print(f"what mattered for {name}: {said}", soft_wrap=True)
    counts = ", ".join(f"{number} {state}" for state, number in results["counts"].items() if number)
    typer.echo(f"{counts or 'no trial'}" + (f" ({stopped})" if stopped else ""))
    for label, path in (("best", folder / "best.yaml"), ("report", folder / "report.html"), ("search", folder)):
        if path.exists():
            typer.echo(f"  {label:<8} {path}")
    if stopped:
        typer.echo(f"  go on    danlu tune {folder} --resume")


def _table(results: Mapping[str, Any]) -> Any:
    from rich.table import Table

    goals, front = results["objectives"], results["front"]
    sign = 1 if goals[0]["better"] == "lower" else -1
    scored = [trial for trial in results["trials"] if trial["state"] == "finished"]
    scored.sort(key=lambda trial: (trial["number"] not in front, sign * trial["scores"][goals[0]["name"]]))
    made = Table(box=None, pad_edge=False)
    for title in ("trial", *(goal["name"] for goal in goals), *_short_names(list(results["space"])), "time"):
        made.add_column(title, overflow="fold")
    for trial in scored[:MOST_ROWS]:
        cells = [f"{trial['scores'][goal['name']]:.4g}" for goal in goals]
        cells += [_text(trial["values"][key]) for key in results["space"]]
        star = "*" if trial["number"] in front else ""
        made.add_row(f"{trial['number']}{star}", *cells, duration(trial["seconds"]))
    return made


def _short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each key, with as many parts before it as tell it from the others."""
    for depth in range(1, max(key.count(".") for key in keys) + 1):
        short = [".".join(key.split(".")[-depth:]) for key in keys]
        if len(set(short)) == len(keys):
            return short
    return list(keys)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)
