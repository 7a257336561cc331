"""Exponential moving average of the weights."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

from pydantic import Field
from torch import nn

from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.techniques._average import AverageState, carrying, pull


class Ema(Technique):
    """Evaluates and exports a moving average of the weights instead of the last ones.

        a₀ = w₀,    aₙ = dₙ aₙ₋₁ + (1 − dₙ) wₙ,    dₙ = min(decay, n / (n + 9))    (n = 1, 2, …)

    Sources: Polyak & Juditsky 1992; the warm-up of the decay is that of TensorFlow's ExponentialMovingAverage,
    (1 + m) / (10 + m) with m = n − 1 steps before, which lets early weights fade within some ten steps. Skipped
    steps do not count. Frozen parameters are not averaged, buffers are taken as they are. The average is kept in
    float32. Cost: one copy of the trained weights, one pass over them a step, one more copy during evaluations.

    When not: in runs shorter than some 1 / (1 − decay) steps it lags behind; with a learning rate that decays to
    zero it changes little.
    """

    conflicts: ClassVar[tuple[str, ...]] = ("swa",)
    off: ClassVar[Mapping[str, object]] = {"decay": 0.0}
    example: ClassVar[Mapping[str, object]] = {"decay": 0.9}

    decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    """how much of the average stays at each step, once warm"""
    warmup: bool = True
    """start with a small decay and raise it to its value"""

    def start(self, model: nn.Module) -> AverageState:
        return AverageState(model)

    def after_step(self, ctx: StepContext, state: TechniqueState | None) -> None:
        assert isinstance(state, AverageState)
        state.num_updates += 1
        pull(state, ctx.model, 1.0 - self.decay_at(state.num_updates), ctx.taken)

    def decay_at(self, num_updates: int) -> float:
        """dₙ, n counted from 1."""
        return min(self.decay, num_updates / (num_updates + 9)) if self.warmup else self.decay

    @contextlib.contextmanager
    def on_export(self, model: nn.Module, state: TechniqueState | None) -> Iterator[nn.Module]:
        assert isinstance(state, AverageState)
        with carrying(model, state):
            yield model
