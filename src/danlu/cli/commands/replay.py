"""danlu replay"""

from pathlib import Path
from typing import Annotated

import typer

POSITION = 38


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Recompute RUN's findings, decisions and verdicts from its readings, and say where they differ.

    The same journal gives the same decisions; a difference (exit code 1) means that danlu's rules have changed since.
    """
    import dataclasses
    import json

    from danlu.stages.replay import replay

    result = replay(run)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(result), "same": result.same}))
    else:
        typer.echo(", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in result.counts.items()))
        for title, lines in (("in the journal only", result.only_in_journal), ("again only", result.only_again)):
            for step, kind, text in lines:
                typer.echo(f"  {title}: step {step}, {kind}: {text}")
        typer.echo("the same again" if result.same else "not the same")
    raise typer.Exit(0 if result.same else 1)
