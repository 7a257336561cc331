"""danlu study"""

from pathlib import Path
from typing import Annotated

import typer

POSITION = 33


def command(
    recipe: Annotated[str, typer.Argument(help="A recipe, or the folder of a study to resume.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION.KEY=VALUE...", help="Laid over the recipe: study.seeds=8", show_default=False),
    ] = None,
    techniques: Annotated[
        str, typer.Option("--techniques", metavar="NAME,...", help="Whose effect to measure.  [default: the recipe's]")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The study's folder.  [default: runs/NAME-study/NUMBER]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out or the newest study; what had failed is done once more.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Do N runs at once; disturbs the speeds.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what was found.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what study.json holds, at the end.")] = False,
) -> None:
    """Measure what techniques do to the score, speed and memory: runs with and without each, in pairs, over seeds.

    study.techniques.dropout.p=0.3 sets an option. Ctrl-C stops in order: the same command with --resume goes on.
    """
    import json

    from danlu.cli import studying, tuning
    from danlu.stages.study import read_results, study

    asked, out = tuning.read_request(recipe, overrides or [], "study", out=out, resume=resume, workers=workers)
    names = [name.strip() for name in techniques.split(",") if name.strip()]
    hear = None if quiet or as_json else studying.tell_run
    folder, stopped = study(asked, techniques=names, out=out, resume=resume, hear=hear)
    results = read_results(folder)
    if as_json:
        typer.echo(json.dumps(results))
    else:
        studying.tell_results(results, folder, stopped)
    raise typer.Exit({"signal SIGINT": 130, "signal SIGTERM": 143}.get(stopped or "", 0))
