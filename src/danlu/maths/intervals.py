"""Intervals of 95 % for a share and for a mean."""

import math
import statistics
from collections.abc import Sequence

Z = 1.959963984540054
"""the standard normal's 97.5 % quantile"""


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Of a share, Wilson 1927: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n); it stays within [0, 1].

    Without trials nothing is known: (0, 1).
    """
    if trials == 0:
        return 0.0, 1.0
    share, room = hits / trials, Z**2 / trials
    middle = share + room / 2
    reach = math.sqrt(room * share * (1 - share) + room**2 / 4)
    return max(0.0, (middle - reach) / (1 + room)), min(1.0, (middle + reach) / (1 + room))


def of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Of a mean, by the central limit theorem: m ± z s/√n; meant for some tens of values. NaN for fewer than two."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, reach = statistics.fmean(values), Z * statistics.stdev(values) / math.sqrt(len(values))
    return mean - reach, mean + reach
