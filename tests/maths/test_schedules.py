import math

import pytest

from danlu.maths import schedules


@pytest.mark.parametrize("name", sorted(set(schedules.SHAPES) - {"one_cycle"}))
def test_shapes_start_at_the_peak_and_stay_in_range(name: str) -> None:
    shape = schedules.SHAPES[name]
    assert shape(0.0) == pytest.approx(1.0)
    assert all(0.0 <= shape(tick / 200) <= 1.0 + 1e-9 for tick in range(201))


@pytest.mark.parametrize("name", ["linear", "cosine", "cyclic", "one_cycle", "wsd"])
def test_shapes_that_decay_end_at_zero(name: str) -> None:
    assert schedules.SHAPES[name](1.0) == pytest.approx(0.0, abs=1e-9)


def test_values_from_the_formulas() -> None:
    assert schedules.cosine(0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert schedules.cyclic(0.5, cycles=1) == pytest.approx(0.5)
    assert [schedules.step(p, drops=1, factor=0.5) for p in (0.49, 0.5, 1.0)] == [1.0, 0.5, 0.5]
    assert schedules.inverse_sqrt(0.15, timescale=0.05) == pytest.approx(0.5)
    assert schedules.wsd(0.8) == 1.0
    assert schedules.wsd(0.85) == pytest.approx(0.5)
    assert schedules.one_cycle(0.3) == pytest.approx(1.0)
    assert schedules.one_cycle(0.0) == pytest.approx(0.04)
    assert schedules.warmup(0.0) == schedules.FIRST_SHARE


def test_options_are_checked() -> None:
    assert schedules.options_of(schedules.cyclic) == {"cycles": 4, "shrink": 1.0}
    with pytest.raises(ValueError, match="decay must lie"):
        schedules.wsd(0.5, decay=1.5)
