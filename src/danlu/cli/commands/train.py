"""danlu train"""

from pathlib import Path
from typing import Annotated

import typer

POSITION = 30


def command(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe, or the folder of a run to resume.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SECTION.KEY=VALUE...", help="Laid over the recipe: train.optimizer.lr=3e-4", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run's folder.  [default: runs/NAME/NUMBER]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where --out, the run given or the recipe's newest run stopped.")
    ] = False,
    processes: Annotated[
        int, typer.Option("--processes", "-n", min=1, metavar="N", help="Train with N processes on this machine.")
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but how it ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the journal's records, one a line.")] = False,
) -> None:
    """Train what RECIPE describes.

    Paths inside a recipe are relative to the folder in which the command is run. Ctrl-C stops the run and keeps what
    it has learnt: the same command with --resume goes on from there.
    """
    from danlu.cli import live, training
    from danlu.dist import launch

    request = training.read_request(recipe, overrides or [], out=out, resume=resume)
    if processes > 1 and not launch.under_launcher():
        raise typer.Exit(launch.launch(ctx.obj, processes))
    manner = live.manner_of(quiet=quiet, as_json=as_json)
    with live.watching(manner) as listeners:
        folder = training.run(request, listeners)
    raise typer.Exit(training.tell_ending(folder, manner))
