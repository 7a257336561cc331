"""Made-up examples, and what an epoch of them is drawn as."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor

from danlu.core.technique import Setting
from danlu.data.sampler import BatchSize, Position, Sampler, Wanted


@pytest.fixture
def make_setting() -> Callable[..., Setting]:
    def make(groups: list[int], lengths: list[int] | None = None) -> Setting:
        return Setting(lengths_N=np.array(lengths or [1] * len(groups)), column=lambda name: np.array(groups))

    return make


@pytest.fixture
def epoch() -> Callable[[Tensor], np.ndarray]:
    """How often each example comes in an epoch drawn with these weights."""

    def draw(weights_N: Tensor, seed: int = 0) -> np.ndarray:
        number = len(weights_N)
        sampler, wanted = Sampler(np.ones(number, dtype=int), seed=seed), Wanted(weights_N.numpy(), number)
        drawn, _ = sampler.draw(Position(), BatchSize(examples=number), wanted=wanted)
        return np.bincount(drawn, minlength=number)

    return draw
