"""danlu generate"""

import sys
from typing import Annotated

import typer

POSITION = 42


def command(
    model: Annotated[str, typer.Argument(help="A run, a model's folder, a .gguf file or a hub name.")],
    prompt: Annotated[str, typer.Argument(help="What to go on from; - reads it from standard input.")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token every time.")] = 0.8,
    top_p: Annotated[
        float, typer.Option(help="Choose among the likeliest tokens that together have this share.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Write at most so many tokens.")] = 200,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Ask as in a chat.  [default: as in training]", show_default=False),
    ] = None,
) -> None:
    """Let a language model continue a text.

    It is printed as it is written; the same seed gives the same text.
    """
    from danlu.core.config import read_options
    from danlu.models.writing import Writing
    from danlu.stages.generate import generate

    options = {"temperature": temperature, "top_p": top_p, "seed": seed, "max_tokens": max_tokens}
    writing = read_options(Writing, options)
    generate(model, sys.stdin.read() if prompt == "-" else prompt, writing=writing, chat=chat, say=_say)
    _say("\n")


def _say(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
