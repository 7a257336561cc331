"""Numbers as a person reads them on a terminal."""

from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def count(value: float) -> str:
    """1234567 as `1.2M`."""
    amount = float(value)
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


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line, in eighths of a block, from zero (or the least value, when below) to the greatest."""
    low, high = min(0.0, *values), max(values)
    if high <= low:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[round((value - low) / (high - low) * (len(_BLOCKS) - 1))] for value in values)
