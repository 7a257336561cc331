"""The gradient noise scale, from the gradients of a small and a large batch."""

from torch import Tensor


def signal_and_noise(
    small_square: Tensor, large_square: Tensor, small_size: float, large_size: float
) -> tuple[Tensor, Tensor]:
    """Unbiased estimates of |G|² and tr(Σ) from squared gradient norms at two batch sizes b < B:

        |G|² = (B |G_B|² - b |G_b|²) / (B - b),    tr(Σ) = (|G_b|² - |G_B|²) / (1/b - 1/B)

    McCandlish et al. 2018, arXiv:1812.06162, appendix A.1. The ratio of their means over several steps is the simple
    noise scale; single steps are too noisy, and |G|² may come out below zero.
    """
    signal = (large_size * large_square - small_size * small_square) / (large_size - small_size)
    noise = (small_square - large_square) / (1 / small_size - 1 / large_size)
    return signal, noise
