"""Small statistics over readings, safe against outliers."""

import math
import statistics
from collections.abc import Iterable, Sequence

MAD_TO_SIGMA = 1.4826
"""of a normal distribution: standard deviation over median absolute deviation"""


def robust_z(value: float, history: Sequence[float]) -> float:
    """z = (x - median) / (1.4826 MAD): how far `value` lies from `history` in robust standard deviations.

    Iglewicz and Hoaglin 1993. Values that are not finite are left out of the history; a history without spread gives 0
    for its own median and ±inf for anything else; an empty one gives 0.
    """
    known = [entry for entry in history if math.isfinite(entry)]
    if not known:
        return 0.0
    middle = statistics.median(known)
    spread = MAD_TO_SIGMA * statistics.median(abs(entry - middle) for entry in known)
    if spread == 0.0:
        return 0.0 if value == middle else math.copysign(math.inf, value - middle)
    return (value - middle) / spread


def moving_average(values: Iterable[float], decay: float) -> list[float]:
    """Exponential moving average without the bias of its start: m_t = d m + (1 - d) x, given as m_t / (1 - d^t).

    The correction is that of Adam (Kingma and Ba 2015, section 3).
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay must lie in [0, 1), not {decay}")
    smoothed: list[float] = []
    mean = 0.0
    for count, value in enumerate(values, start=1):
        mean = decay * mean + (1.0 - decay) * value
        smoothed.append(mean / (1.0 - decay**count))
    return smoothed


def slope(values: Sequence[float]) -> float:
    """The least-squares slope of `values` against their places 0, 1, 2, ...; 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope
