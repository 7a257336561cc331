"""How far a model's confidence is from how often it is right."""

import numpy as np


def expected_calibration_error(confidences_N: np.ndarray, correct_N: np.ndarray, *, num_bins: int = 15) -> float:
    """ECE = Σ_b (n_b / N) |accuracy_b - confidence_b|, over bins of equal width in (0, 1]; 0 is perfect.

    A bin holds its upper bound, not its lower one. Naeini et al. 2015; Guo et al. 2017, "On calibration of modern
    neural networks", equation 3.

    Args:
        confidences_N: (N,) probabilities that the model gave to what it chose, in [0, 1].
        correct_N: (N,) whether that was right.

    Raises:
        ValueError: there is nothing to measure, or the two differ in shape.
    """
    if confidences_N.shape != correct_N.shape or not confidences_N.size:
        raise ValueError(f"confidences {confidences_N.shape} and correct {correct_N.shape} must be alike and not empty")
    edges = np.linspace(0.0, 1.0, num_bins + 1)[1:-1]
    bins_N = np.digitize(confidences_N, edges, right=True)
    gaps = np.bincount(bins_N, weights=correct_N.astype(np.float64) - confidences_N, minlength=num_bins)
    return float(np.abs(gaps).sum() / confidences_N.size)
