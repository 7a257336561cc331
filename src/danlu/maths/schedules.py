"""Shapes of a schedule: pure functions of progress p in [0, 1] (after the warm-up) to a factor of the peak value.

Every shape starts at 1, where the warm-up ends, except `one_cycle`, which brings its own rise. A shape's options are
its keyword arguments.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

FIRST_SHARE = 0.01


def warmup(progress: float) -> float:
    """f(p) = max(p, 1/100): a straight rise (Goyal et al. 2017, section 2.2) whose first step is not wasted."""
    return min(1.0, max(progress, FIRST_SHARE))


def constant(progress: float) -> float:
    """f(p) = 1."""
    return 1.0


def linear(progress: float) -> float:
    """f(p) = 1 - p."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """f(p) = (1 + cos πp) / 2 (Loshchilov and Hutter 2017, SGDR, equation 5, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def polynomial(progress: float, *, power: float = 2.0) -> float:
    """f(p) = (1 - p)^power (Chen et al. 2017, DeepLab, section 3.2.2; BERT's decay with power 1)."""
    _above_zero("power", power)
    return (1.0 - progress) ** power


def exponential(progress: float, *, end: float = 0.01) -> float:
    """f(p) = end^p: the same factor at every step, down to `end`."""
    _share("end", end)
    return end**progress


def cosine_restarts(progress: float, *, cycles: int = 4, stretch: float = 1.0, shrink: float = 1.0) -> float:
    """f(p) = s^i (1 + cos πq) / 2, q the progress in cycle i; each cycle is `stretch` times as long as the one before.

    Loshchilov and Hutter 2017, SGDR, equation 5 with restarts, `stretch` being T_mult; `shrink` < 1 lowers the peaks.
    """
    _above_zero("cycles", cycles)
    _above_zero("stretch", stretch)
    lengths = [stretch**number for number in range(max(1, int(cycles)))]
    left = progress * sum(lengths)
    for number, length in enumerate(lengths):
        if left < length or number == len(lengths) - 1:
            return shrink**number * cosine(min(1.0, left / length))
        left -= length
    raise AssertionError("one cycle at least")


def cyclic(progress: float, *, cycles: int = 4, shrink: float = 1.0) -> float:
    """f(p) = s^⌊x⌋ |1 - 2(x - ⌊x⌋)| with x = p (n - 1/2): a triangular wave with n descents that ends in a valley.

    Smith 2017, Cyclical Learning Rates, section 3.2; `shrink` < 1 gives his `triangular2`.
    """
    _above_zero("cycles", cycles)
    position = progress * (cycles - 0.5)
    return shrink ** math.floor(position) * abs(1.0 - 2.0 * (position - math.floor(position)))


def one_cycle(progress: float, *, peak_at: float = 0.3, start: float = 0.04) -> float:
    """Up from `start` to 1 until p = `peak_at`, then down to 0, both by half a cosine (Smith and Topin 2018)."""
    _share("peak_at", peak_at)
    if progress < peak_at:
        return start + (1.0 - start) * (1.0 - cosine(progress / peak_at))
    return cosine((progress - peak_at) / (1.0 - peak_at))


def step(progress: float, *, drops: int = 3, factor: float = 0.1) -> float:
    """f(p) = factor^⌊p (drops + 1)⌋: equally long plateaus (He et al. 2016, section 3.4: tenfold drops)."""
    _above_zero("drops", drops)
    return factor ** min(drops, math.floor(progress * (drops + 1)))


def inverse_sqrt(progress: float, *, timescale: float = 0.05) -> float:
    """f(p) = √(τ / (τ + p)) (Vaswani et al. 2017, equation 3, with τ = the warm-up's share of what follows it)."""
    _above_zero("timescale", timescale)
    return math.sqrt(timescale / (timescale + progress))


def wsd(progress: float, *, decay: float = 0.2) -> float:
    """Warm-up, stable, decay: 1 until the last share `decay`, then 1 - √q over it (Hägele et al. 2024, equation 1)."""
    _share("decay", decay)
    return 1.0 - math.sqrt(max(0.0, (progress - (1.0 - decay)) / decay))


Shape = Callable[..., float]
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        shape.__name__: shape
        for shape in (
            *(constant, linear, polynomial, cosine, cosine_restarts, exponential),
            *(cyclic, one_cycle, step, inverse_sqrt, wsd),
        )
    }
)


def options_of(shape: Shape) -> dict[str, float]:
    """The options that a shape takes, with their defaults."""
    parameters = inspect.signature(shape).parameters.values()
    return {entry.name: entry.default for entry in parameters if entry.kind is entry.KEYWORD_ONLY}


def ramp(progress: float, *, start: float, over: float, stages: int) -> float:
    """From `start` to 1 in `stages` equal steps over the share `over` of the budget; 1 from there on.

    f(p) = start + (1 - start) ⌊stages · p / over⌋ / stages.
    """
    if progress >= over:
        return 1.0
    return start + (1.0 - start) * math.floor(stages * progress / over + 1e-9) / stages


def _above_zero(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be above zero, not {value}")


def _share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, not {value}")
