"""The learning-rate range test: which rate a curve of losses over rising rates speaks for."""

import math
from collections.abc import Sequence

import numpy as np

WIDTH = 3
DIVERGED = 4.0


def smoothed(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """(N,) each loss averaged with up to 3 before and behind it, weighted like a triangle; no lag, unlike an average
    that only looks back.
    """
    values, weights = np.asarray(losses, dtype=float), WIDTH + 1 - np.abs(np.arange(-WIDTH, WIDTH + 1))
    sums = np.convolve(np.pad(values, WIDTH), weights, mode="valid")
    return sums / np.convolve(np.pad(np.ones(len(values)), WIDTH), weights, mode="valid")


def diverged(losses: Sequence[float]) -> bool:
    """True when the last loss is not finite, or four times the least one before it (fastai's rule)."""
    return not math.isfinite(losses[-1]) or losses[-1] > DIVERGED * min(losses)


def pick_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """A tenth of the rate at which the smoothed loss is least; None when the loss never fell.

    Smith 2017, "Cyclical Learning Rates", section 3.3: raise the rate from step to step and see where the loss falls
    and where it stops falling. There the rate is too high by about a factor of ten (Howard and Gugger 2020, fastai).
    """
    finite = np.isfinite(losses)
    values = np.asarray(losses)[finite]
    kept, first = smoothed(values), max(2, len(values) // 4)
    lowest = int(np.argmin(kept))
    fell, noise = np.median(values[:first]) - kept[lowest], np.std(np.diff(values[:first]))
    return float(np.asarray(rates)[finite][lowest]) / 10.0 if lowest >= first and fell > noise else None
