"""Calibration error against cases worked out by hand."""

import numpy as np
import pytest

from danlu.maths.calibration import expected_calibration_error


def test_a_perfect_and_a_hopeless_case() -> None:
    assert expected_calibration_error(np.ones(4), np.ones(4, dtype=bool)) == 0.0
    assert expected_calibration_error(np.ones(4), np.zeros(4, dtype=bool)) == 1.0


def test_bins_are_weighed_by_their_rows() -> None:
    confidences, correct = np.array([0.2, 0.2, 0.9, 0.9]), np.array([False, True, True, True])
    assert expected_calibration_error(confidences, correct, num_bins=2) == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)


def test_a_bin_holds_its_upper_bound() -> None:
    confidences, correct = np.array([0.5, 0.6]), np.array([True, False])
    assert expected_calibration_error(confidences, correct, num_bins=2) == pytest.approx(0.5 * 0.5 + 0.5 * 0.6)


def test_nothing_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="not empty"):
        expected_calibration_error(np.zeros(0), np.zeros(0, dtype=bool))
