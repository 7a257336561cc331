"""danlu inspect"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from danlu.stages.inspect import Inspection

POSITION = 15


def command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, folder, glob, hub name or builtin:NAME.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="Of the recipe's data section: valid=10% columns.text=review tokenizer.from=FOLDER",
            show_default=False,
        ),
    ] = None,
    task: Annotated[str, typer.Option(metavar="TASK", help="What the data are for.")] = "text-generation",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write one self-contained page there too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is in a source and what is wrong with it.

    Sizes, lengths, labels, broken rows, duplicates and near-duplicates, rows on both sides of the split, rows that
    contradict each other, and settings to begin with. Nothing is trained.
    """
    import dataclasses
    import json

    from danlu.recipe.load import apply_override
    from danlu.stages.inspect import inspect

    overrides: dict[str, object] = {}
    for word in options or []:
        apply_override(overrides, word)
    found = inspect(data, task=task, out=out, overrides=overrides)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), ensure_ascii=False))
    else:
        _show(found)
    if out is not None:
        typer.echo(f"written to {out}", err=True)


def _show(found: "Inspection") -> None:
    for fact in found.facts:
        typer.secho(fact.title, bold=True)
        width = max(len(name) for name, _ in fact.lines)
        for name, value in fact.lines:
            typer.echo(f"  {name:<{width}}  {value}")
    for fault in found.faults:
        typer.secho(f"{fault.number} {fault.title}", fg="yellow", bold=True)
        typer.echo(f"  {fault.mend}.")
        for row in fault.rows[:3]:
            typer.echo(f"  - {row}")
    if found.suggestions:
        typer.secho("settings to begin with", bold=True)
        for one in found.suggestions:
            typer.echo(f"  {one.setting}   # {one.reason}")
