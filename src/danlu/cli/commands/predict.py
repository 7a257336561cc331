"""danlu predict"""

from pathlib import Path
from typing import Annotated

import typer

POSITION = 41


def command(
    model: Annotated[str, typer.Argument(help="A run, a model's folder, a .gguf file or a hub name.")],
    source: Annotated[
        str, typer.Option("--input", metavar="FILE", help="The rows to answer: JSONL, CSV, Parquet, text.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write a JSON line for each row.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="The task's own, such as max_tokens=50 temperature=0 seed=1",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="What the model is for, where it does not say itself.")
    ] = None,
    column: Annotated[
        str, typer.Option("--as", metavar="COLUMN", help="The column for the answer, in the place of the row's own.")
    ] = "prediction",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing.")] = False,
) -> None:
    """Let a model answer each row of a file.

    Writes one JSON line for each row, in the same order: the row's own fields and the answer.
    """
    from danlu.cli.words import options_of
    from danlu.stages.predict import predict

    def say(number: int) -> None:
        typer.echo(f"{number} rows", err=True)

    chosen = options_of(options or [])
    told = None if quiet else say
    number = predict(model, input=source, out=out, task=task, options=chosen, column=column, say=told)
    if not quiet:
        typer.echo(f"{number} rows written to {out}")
