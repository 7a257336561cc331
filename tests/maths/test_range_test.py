import numpy as np
import pytest

from danlu.maths.range_test import diverged, pick_rate, smoothed


def test_smoothing_is_a_triangle_without_lag() -> None:
    found = smoothed([0.0] * 6 + [16.0] + [0.0] * 6)
    assert found[3:10].tolist() == [1, 2, 3, 4, 3, 2, 1]
    np.testing.assert_allclose(smoothed([2.0] * 5), 2.0)


def test_a_tenth_of_where_the_loss_is_least() -> None:
    rates = np.logspace(-6, 1, 100)
    losses = np.log10(rates / 1e-2) ** 2  # least at 1e-2
    noisy = losses + np.random.default_rng(0).normal(0, 0.1, 100)
    assert pick_rate(rates, losses) == pytest.approx(1e-3, rel=0.1)
    assert pick_rate(rates, noisy) == pytest.approx(1e-3, rel=0.6)
    ending = [*losses[:70], float("nan")]
    assert pick_rate(rates[:71], ending) == pytest.approx(1e-3, rel=0.1)


def test_no_rate_where_the_loss_never_fell() -> None:
    rates, draw = np.logspace(-6, 1, 100), np.random.default_rng(0)
    assert pick_rate(rates, 3 + draw.normal(0, 0.1, 100)) is None
    assert pick_rate(rates, np.linspace(1, 5, 100)) is None


def test_divergence() -> None:
    assert diverged([1.0, 0.5, 2.1])
    assert diverged([1.0, float("inf")])
    assert not diverged([1.0, 0.5, 1.9])
