import math
import random

import pytest

from danlu.maths.statistics import holm, paired, robust_z, slope, t_quantile, two_sided_p


def test_robust_z() -> None:
    history = [1.0, 2.0, 3.0, 4.0, 5.0, math.nan]
    assert robust_z(3.0, history) == 0.0
    assert robust_z(4.4826, history) == pytest.approx(1.0)
    assert robust_z(2.0, []) == 0.0
    assert robust_z(2.0, [1.0, 1.0]) == math.inf


def test_slope() -> None:
    assert slope([1.0, 3.0, 5.0]) == pytest.approx(2.0)
    assert slope([1.0]) == 0.0


def test_student_s_t_is_scipy_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 7, 10, 31):
        for t in (0.0, 0.3, 1.0, 2.5, 9.0, 40.0):
            assert two_sided_p(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-6, abs=1e-14)
            assert two_sided_p(-t, freedom) == two_sided_p(t, freedom)
        for p in (0.5, 0.05, 0.001):
            assert t_quantile(p, freedom) == pytest.approx(stats.t.isf(p / 2, freedom), rel=1e-8)


def test_paired_on_student_s_own_sleep_data() -> None:
    """Student 1908, table on page 20: hours of sleep gained by ten people with two drugs; R gives p = 0.002833."""
    one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    two = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired([b - a for a, b in zip(one, two, strict=True)])
    assert (found.mean, found.num) == (pytest.approx(1.58), 10)
    assert (found.low, found.high) == (pytest.approx(0.7001142, abs=1e-6), pytest.approx(2.4598858, abs=1e-6))
    assert found.p == pytest.approx(0.002833, abs=1e-6)


@pytest.mark.parametrize("num", [5, 10])
def test_the_smallest_effect_has_about_the_power_that_it_says(num: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = paired([(-1.0) ** at * (1 + at) for at in range(num)])
    error = (found.high - found.low) / 2 / t_quantile(0.05, num - 1)
    away = stats.nct.sf(t_quantile(0.05, num - 1), num - 1, found.smallest / error)
    assert 0.75 < away < 0.85


def test_paired_without_spread_or_without_pairs() -> None:
    assert (paired([0.0] * 5).p, paired([0.0] * 5).smallest) == (1.0, 0.0)
    assert (paired([0.5] * 5).p, paired([0.5] * 5).low) == (0.0, 0.5)
    assert (paired([1.0]).p, paired([]).num) == (1.0, 0)
    assert math.isnan(paired([1.0]).low)


def test_noise_is_taken_for_an_effect_as_seldom_as_promised() -> None:
    """Of 2000 families of three techniques without any effect, five pairs each: 5 % with a p below .05 after Holm."""
    draw = random.Random(0)
    families = [[paired([draw.gauss(0, 1) for _ in range(5)]).p for _ in range(3)] for _ in range(2000)]
    share = sum(min(holm(ps)) < 0.05 for ps in families) / 2000
    assert 0.035 < share < 0.065


def test_holm_on_a_worked_example() -> None:
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") gives 0.03 0.06 0.06 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
