import math

import pytest

from danlu.maths.intervals import of_mean, wilson


def test_wilson_gives_the_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for hits, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson(hits, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_interval_of_a_mean_is_symmetric_and_shrinks_with_the_root_of_the_number() -> None:
    few, many = of_mean([1.0, 3.0] * 5), of_mean([1.0, 3.0] * 500)
    assert sum(few) / 2 == pytest.approx(2.0)
    assert many[1] - many[0] == pytest.approx(2 * 1.96 / math.sqrt(1000), rel=1e-2)
    assert few[1] - few[0] > 9 * (many[1] - many[0])
    assert all(math.isnan(end) for end in of_mean([1.0]))
