"""What `danlu study` prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from danlu.core.words import duration

if TYPE_CHECKING:
    from danlu.stages.study.arms import Run
    from danlu.stages.study.runs import Done


def tell_run(run: "Run", done: "Done", number: int, total: int) -> None:
    """One line for a run that has ended."""
    score = done.scores.get(run.recipe.task.judged)
    words = [f"run {number} of {total}", f"seed {run.seed}", run.label]
    words += [f"{run.recipe.task.judged} {score:.4g}"] if score is not None else []
    words += [duration(done.seconds)] if done.state == "finished" else [f"failed: {done.reason}"]
    typer.secho(" · ".join(words), fg="yellow" if done.state == "failed" else None)


def tell_results(results: Mapping[str, Any], folder: Path, stopped: str | None) -> None:
    """A table of the effects, the verdicts in words, and where everything lies."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    known = [row for row in results["techniques"] if row["effects"][results["judged"]]["pairs"] > 1]
    if known:
        console.print(_table(results, known))
        typer.echo("")
    for row in results["techniques"]:
        fg = {"helps": "green", "hurts": "red", "fails": "red"}.get(row["verdict"])
        typer.echo(typer.style(row["name"], bold=True) + " " + typer.style(row["words"], fg=fg))
    typer.echo(f"\n{len(results['seeds'])} seeds, {results['compute']}")
    if any(row["disturbed"] for row in known):
        typer.echo("* disturbed: runs shared the machine, or are of different times")
    counts = ", ".join(f"{number} {state}" for state, number in results["counts"].items() if number)
    typer.echo(counts + (f" ({stopped})" if stopped else ""))
    for label, path in (("report", folder / "report.html"), ("study", folder)):
        typer.echo(f"  {label:<8} {path}")
    if stopped:
        typer.echo(f"  go on    danlu study {folder} --resume")


def _table(results: Mapping[str, Any], known: list[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    from danlu.stages.study.effects import change

    judged = results["judged"]
    made = Table(box=None, pad_edge=False)
    titles = ("technique", "verdict", f"{judged} without", "with", "effect, 95 %", "p (Holm)", "speed", "memory")
    for title in titles:
        made.add_column(title, overflow="fold")
    for row in known:
        effect, mark = row["effects"][judged], "*" if row["disturbed"] else ""
        scores = (f"{effect['without']:.4g}", f"{effect['with']:.4g}", change(effect), f"{effect['p_holm']:.3g}")
        ratios = [f"× {row[name]['ratio']:.3f}{mark}" if row[name]["ratio"] else "" for name in ("speed", "memory")]
        made.add_row(row["name"], row["verdict"], *scores, *ratios)
    return made
