"""Stochastic weight averaging."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

from pydantic import Field
from torch import nn

from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.techniques._average import AverageState, carrying, pull


class Swa(Technique):
    """Evaluates and exports the plain mean of the weights met in the last part of the run.

        a ← a + (w − a) / (n + 1)      every `every_steps` steps, from `start_at` of the budget on

    Source: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization", algorithm 1.
    Before its start the model's own weights are used. It wants a learning rate that stays high to the end (constant,
    cyclic). Frozen parameters are not averaged; transformers have no batch norms whose statistics would have to be
    made again. Cost: one copy of the trained weights, one pass over them at each `every_steps`.

    When not: with a learning rate that decays to zero, where the weights hardly move at the end; with ema.
    """

    conflicts: ClassVar[tuple[str, ...]] = ("ema",)
    off: ClassVar[Mapping[str, object]] = {"start_at": 1.0}
    example: ClassVar[Mapping[str, object]] = {"start_at": 0.4, "every_steps": 2}

    start_at: float = Field(default=0.75, ge=0.0, le=1.0)
    """the share of the budget after which averaging begins"""
    every_steps: int = Field(default=1, ge=1)
    """steps from one set of weights taken in to the next"""

    def start(self, model: nn.Module) -> AverageState:
        return AverageState(model)

    def after_step(self, ctx: StepContext, state: TechniqueState | None) -> None:
        assert isinstance(state, AverageState)
        if ctx.clock.progress < self.start_at or ctx.clock.step % self.every_steps:
            return
        pull(state, ctx.model, 1.0 / (state.num_updates + 1), ctx.taken)
        state.num_updates += 1

    @contextlib.contextmanager
    def on_export(self, model: nn.Module, state: TechniqueState | None) -> Iterator[nn.Module]:
        assert isinstance(state, AverageState)
        with carrying(model, state) if state.num_updates else contextlib.nullcontext():
            yield model
