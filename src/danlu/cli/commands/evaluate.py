"""danlu evaluate"""

from pathlib import Path
from typing import Annotated

import typer

POSITION = 40


def command(
    model: Annotated[str, typer.Argument(help="A run, a model's folder, a .gguf file or a hub name.")],
    data: Annotated[
        str, typer.Option("--data", metavar="SOURCE", help="File, folder, glob, hub name or builtin:NAME.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="Of the recipe's data section, where it differs: context=512; of the task: task.beams=4",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="What the model is for, where it does not say itself.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Another model, to compare with by paired bootstrap.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the metrics there too, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")] = False,
) -> None:
    """Measure a model on data.

    For text: loss, perplexity and bits per byte.
    """
    import json

    from danlu.cli.words import options_of
    from danlu.stages.evaluate import evaluated

    found = evaluated(model, data=data, against=against, task=task, out=out, overrides=options_of(options or []))
    if as_json:
        told = found.metrics if against is None else {**found.metrics, "against": found.against}
        typer.echo(json.dumps(told))
        return
    width = max(map(len, found.metrics))
    for name, value in found.metrics.items():
        typer.echo(f"{name:<{width}}  {value:.6g}")
    for name, row in found.against.items():
        typer.echo(
            f"{name:<{width}}  {row['ours']:.2f} ± {row['ours_ci']:.2f}, {against}: {row['theirs']:.2f} ± "
            f"{row['theirs_ci']:.2f}, p = {row['p']:.4f}"
        )
    signatures = found.tables.get("signatures")
    for name, signature in signatures.items() if isinstance(signatures, dict) else ():
        typer.echo(f"{name:<{width}}  {signature}")
