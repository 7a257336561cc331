"""Splitting numbers into a low and a high group."""

from typing import NamedTuple

import numpy as np


class TwoGroups(NamedTuple):
    """Where numbers part, the share of the low ones, and the means of both groups."""

    threshold: float
    low_share: float
    low_mean: float
    high_mean: float


def two_groups(values_N: np.ndarray, *, bins: int = 64) -> TwoGroups:
    """The threshold that makes the variance between both groups largest: ω0 ω1 (μ0 − μ1)².

    Otsu 1979, "A threshold selection method from gray-level histograms", equation 14, over `bins` equal bins. Values
    that are all equal make one group: the share of low ones is then 0.
    """
    low, high = float(values_N.min()), float(values_N.max())
    if high <= low:
        return TwoGroups(low, 0.0, low, high)
    counts, edges = np.histogram(values_N, bins=bins, range=(low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * middles)
    above = len(values_N) - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num(below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2)
    threshold = float(edges[1 + int(between.argmax())])
    lower = values_N < threshold
    return TwoGroups(threshold, float(lower.mean()), float(values_N[lower].mean()), float(values_N[~lower].mean()))
