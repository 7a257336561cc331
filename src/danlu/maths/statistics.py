"""Small statistics: over readings, safe against outliers; over a few pairs of runs, right for small samples."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

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


def slope(values: Sequence[float]) -> float:
    """The least-squares slope of `values` against their places 0, 1, 2, ...; 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope


def two_sided_p(t: float, freedom: int) -> float:
    """P(|T| >= |t|) of Student's t with a whole number of degrees of freedom, as a finite sum, to about 1e-15.

    Abramowitz and Stegun 1964, 26.7.3 and 26.7.4; each term follows from the one before.
    """
    angle = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    at, odd = freedom % 2, freedom % 2 == 1
    term, total = cosine if odd else 1.0, 0.0
    while at <= freedom - 2:
        total += term
        term *= (at + 1) / (at + 2) * cosine**2
        at += 2
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))


def t_quantile(p: float, freedom: int) -> float:
    """The t that |T| exceeds with probability p, by bisection: 2.776 for p = .05 and 4 degrees of freedom."""
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > p:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > p else (low, middle)
    return high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """The mean of differences, its interval, a p value, and the smallest mean that would likely have been seen."""

    mean: float
    low: float
    high: float
    p: float
    smallest: float
    num: int


def paired(differences: Sequence[float], *, alpha: float = 0.05, power: float = 0.8, tests: int = 1) -> Paired:
    """Student's t over pairs: t = m √n / s with n - 1 degrees of freedom (Student 1908); interval m ± t_α s / √n.

    It holds for any n >= 2 where the differences are about normal; with few pairs no test without that assumption can
    reach 5 % (all of five signs alike have p = .0625). `smallest` is the effect that would have been found with chance
    `power` at `alpha` over `tests` (Bonferroni): (t_(α/tests) + t_power) s / √n, a little low for very few pairs.
    Differences that are all equal leave no doubt: p is 1 where they are zero, else 0. With fewer than two nothing is
    known: NaN and p = 1.
    """
    num = len(differences)
    mean = statistics.fmean(differences) if num else math.nan
    if num < 2:
        return Paired(mean=mean, low=math.nan, high=math.nan, p=1.0, smallest=math.nan, num=num)
    error = statistics.stdev(differences) / math.sqrt(num)
    if error == 0:
        return Paired(mean=mean, low=mean, high=mean, p=float(mean == 0), smallest=0.0, num=num)
    reach = t_quantile(alpha, num - 1) * error
    smallest = (t_quantile(alpha / tests, num - 1) + t_quantile(2 - 2 * power, num - 1)) * error
    p = two_sided_p(mean / error, num - 1)
    return Paired(mean=mean, low=mean - reach, high=mean + reach, p=p, smallest=smallest, num=num)


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number m: p'_(i) = max over j <= i of (m - j + 1) p_(j), sorted (Holm 1979)."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    corrected, most = [0.0] * len(ps), 0.0
    for place, at in enumerate(order):
        most = max(most, min(1.0, (len(ps) - place) * ps[at]))
        corrected[at] = most
    return corrected
