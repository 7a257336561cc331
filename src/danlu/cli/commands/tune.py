"""danlu tune"""

from pathlib import Path
from typing import Annotated

import typer

POSITION = 32


def command(
    recipe: Annotated[str, typer.Argument(help="A recipe with a section tune, or the folder of a search to resume.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION.KEY=VALUE...", help="Laid over the recipe: tune.trials=40", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The search's folder.  [default: runs/NAME-tune/NUMBER]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out or the newest search, or join others who work on it.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Run N trials at once on this machine.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the best.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what tune.json holds, at the end.")] = False,
) -> None:
    """Search better values for the keys in the recipe's section tune.

    Each trial is an ordinary run in DIR/trials/NUMBER. Ctrl-C stops in order: the same command with --resume goes on.
    """
    import json

    from danlu.cli import tuning
    from danlu.stages.tune import read_results, tune

    asked, out = tuning.read_request(recipe, overrides or [], "tune", out=out, resume=resume, workers=workers)
    hear = None if quiet or as_json else tuning.tell_trial
    folder, stopped = tune(asked, out=out, resume=resume, hear=hear)
    results = read_results(folder)
    if as_json:
        typer.echo(json.dumps(results))
    else:
        tuning.tell_results(results, folder, stopped, table=not quiet)
    raise typer.Exit({"signal SIGINT": 130, "signal SIGTERM": 143}.get(stopped or "", 0))
