"""danlu improve"""

from pathlib import Path
from typing import Annotated

import typer

POSITION = 36


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    rounds: Annotated[
        int, typer.Option("--rounds", min=0, metavar="N", help="Train the next recipe, and go on N times while better.")
    ] = 0,
) -> None:
    """Write the recipe that RUN's findings, actions and errors ask for, with a reason for each change.

    It is written to RUN/next.yaml. With --rounds it is trained in RUN/rounds/1, and kept only if it is better on the
    validation data; then the recipe after that, and so on.
    """
    from danlu.stages.improve import improve

    result = improve(run, rounds=rounds, say=typer.echo)
    for change in result.changes:
        before = "not given" if change.before is None else change.before
        typer.echo(f"  {change.place}: {before} -> {change.after}  ({change.reason})")
    for number, entry in enumerate(result.rounds, 1):
        typer.echo(
            f"  round {number}: {abs(entry.score):.4g}, {'kept' if entry.kept else 'not better, left'}  {entry.run}"
        )
    if not result.changes:
        typer.echo("nothing in this run asks for a change")
    elif result.path is None:
        typer.echo("no round was better: the recipe stays as it is")
    else:
        typer.echo(f"  next     {result.path}")
