import math

import pytest
import torch

from danlu.maths import schedules


@pytest.mark.parametrize("name", sorted(set(schedules.SHAPES) - {"one_cycle"}))
def test_shapes_start_at_the_peak_and_stay_in_range(name: str) -> None:
    shape = schedules.SHAPES[name]
    assert shape(0.0) == pytest.approx(1.0)
    assert all(0.0 <= shape(tick / 200) <= 1.0 + 1e-9 for tick in range(201))


@pytest.mark.parametrize("name", ["linear", "polynomial", "cosine", "cosine_restarts", "cyclic", "one_cycle", "wsd"])
def test_shapes_that_decay_end_at_zero(name: str) -> None:
    assert schedules.SHAPES[name](1.0) == pytest.approx(0.0, abs=1e-9)


def test_values_from_the_formulas() -> None:
    assert schedules.cosine(0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert schedules.polynomial(0.5, power=3) == pytest.approx(0.125)
    assert schedules.exponential(0.5, end=0.01) == pytest.approx(0.1)
    assert schedules.exponential(1.0, end=0.01) == pytest.approx(0.01)
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


def test_restarts_are_torchs() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2)
    for step in range(70):  # cycles of 10, 20 and 40 steps
        assert schedules.cosine_restarts(step / 70, cycles=3, stretch=2) == pytest.approx(
            optimizer.param_groups[0]["lr"]
        )
        optimizer.step()
        reference.step()
    assert schedules.cosine_restarts(0.5, cycles=2, shrink=0.5) == pytest.approx(0.5)


def test_ramp_climbs_in_stages() -> None:
    values = [schedules.ramp(p, start=0.2, over=0.5, stages=2) for p in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)]
    assert values == pytest.approx([0.2, 0.2, 0.6, 0.6, 1.0, 1.0])
    assert schedules.ramp(0.0, start=0.2, over=0.0, stages=2) == 1.0
