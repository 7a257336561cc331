"""What the commands' output and options have in common."""

from collections.abc import Mapping, Sequence

from danlu.core.errors import RequestError
from danlu.core.journal import number
from danlu.core.words import count


def rate(value: float, name: str) -> str:
    """`tokens_per_second` 41234 as `41.2k tokens/s`."""
    return f"{count(value)} {name.removesuffix('_per_second').replace('_', ' ')}/s"


def metrics_line(metrics: object) -> str:
    """`loss 3.2100 · perplexity 24.8`: those that a person compares first."""
    if not isinstance(metrics, Mapping):
        return str(metrics)
    shown = [f"{name.replace('_', ' ')} {_short(value)}" for name, value in metrics.items()]
    return " · ".join(shown)


def _short(value: object) -> str:
    try:
        return f"{number(value):.4g}"
    except (TypeError, ValueError):
        return str(value)


def options_of(words: Sequence[str]) -> dict[str, object]:
    """`["max_tokens=50"]` as `{"max_tokens": 50}`; values are YAML.

    Raises:
        RequestError: a word is not of the form key=value.
    """
    from danlu.recipe.document import parse_value

    options: dict[str, object] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise RequestError("an option is written key=value", where=word, mend="For example max_tokens=50")
        options[name] = parse_value(value)
    return options
