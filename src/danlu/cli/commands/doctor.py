"""danlu doctor"""

from typing import Annotated

import typer

POSITION = 91

_COLOURS = {"good": "green", "note": "yellow", "bad": "red"}
_MARKS = {"good": "ok", "note": "--", "bad": "!!"}


def command(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False) -> None:
    """Say what this machine offers, and what is missing.

    Looks at libraries, device, memory, disk, speed, kernels and extras, and ends with advice.
    Exits with 1 when something is missing without which danlu cannot train.
    """
    import dataclasses
    import json

    from danlu.stages.doctor import doctor

    lines, group = [], ""
    for line in doctor():
        lines.append(line)
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(line)))
            continue
        if line.group != group:
            group = line.group
            typer.secho(group, bold=True)
        typer.echo(f"  {typer.style(_MARKS[line.state], fg=_COLOURS[line.state])} {line.label:<21} {line.text}")
    bad = any(line.state == "bad" for line in lines)
    if not as_json:
        advice = [line.advice for line in lines if line.advice]
        typer.secho("advice", bold=True)
        for sentence in advice or ["Nothing is in the way. `danlu init` writes a first recipe."]:
            typer.echo(f"  {sentence}")
    raise typer.Exit(int(bad))
