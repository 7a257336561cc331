"""Numbers as a person reads them, and options as a person writes them."""

from collections.abc import Mapping, Sequence

from danlu.core.errors import RequestError
from danlu.core.journal import number


def count(value: object) -> str:
    """1234567 as `1.2M`."""
    amount = number(value)
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(amount) >= 0.9995 * size:
            return f"{amount / size:.3g}{unit}"
    return f"{amount:.3g}"


def size(num_bytes: float) -> str:
    """Bytes in binary units, `1.5 GiB`."""
    for unit, step in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= step:
            return f"{num_bytes / step:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """75 as `1:15`, 4000 as `1:06:40`, days in front when there are any."""
    whole = round(max(0.0, seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days} d {hours:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


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
