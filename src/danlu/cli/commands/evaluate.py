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
            help="Of the recipe's data section, where it differs: context=512",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="What the model is for, where it does not say itself.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the metrics there too, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")] = False,
) -> None:
    """Measure a model on data.

    For text: loss, perplexity and bits per byte.
    """
    import json

    from danlu.cli.words import options_of
    from danlu.stages.evaluate import evaluate

    metrics = evaluate(model, data=data, task=task, out=out, overrides=options_of(options or []))
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    width = max(map(len, metrics))
    for name, value in metrics.items():
        typer.echo(f"{name:<{width}}  {value:.6g}")
