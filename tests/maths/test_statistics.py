import math

import pytest

from danlu.maths.statistics import moving_average, robust_z, slope


def test_robust_z() -> None:
    history = [1.0, 2.0, 3.0, 4.0, 5.0, math.nan]
    assert robust_z(3.0, history) == 0.0
    assert robust_z(4.4826, history) == pytest.approx(1.0)
    assert robust_z(2.0, []) == 0.0
    assert robust_z(2.0, [1.0, 1.0]) == math.inf


def test_moving_average_has_no_start_bias() -> None:
    assert moving_average([3.0, 3.0, 3.0], 0.9) == pytest.approx([3.0, 3.0, 3.0])
    with pytest.raises(ValueError, match="decay"):
        moving_average([1.0], 1.0)


def test_slope() -> None:
    assert slope([1.0, 3.0, 5.0]) == pytest.approx(2.0)
    assert slope([1.0]) == 0.0
