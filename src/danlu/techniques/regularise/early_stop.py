"""Early stopping."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import nn

from danlu.core.action import Action, Stop
from danlu.core.technique import StepContext, Technique, TechniqueState


class Patience(TechniqueState):
    """The best score so far (lower is better), evaluations since, and the step of the last one counted."""

    def __init__(self) -> None:
        self.best = float("inf")
        self.num_worse = 0
        self.seen_step = -1


class EarlyStop(Technique):
    """Ends the run when `patience` evaluations in a row brought nothing better, and keeps the best weights.

        better  ⇔  score < best − min_delta

    Source: Prechelt 1998, "Early Stopping — But When?", section 2 (the UP criterion counts evaluations in the same
    way). The score is the task's judged metric, turned so that lower is better; one that is not a number counts as
    worse. Cost: none beyond the evaluations.

    When not: with a schedule that must reach its end to pay off (cosine to zero) a run stopped early keeps a learning
    rate that was never lowered; give such runs a smaller budget instead.
    """

    off: ClassVar[Mapping[str, object]] = {"patience": 1_000_000}
    example: ClassVar[Mapping[str, object]] = {"patience": 2}

    patience: int = Field(default=3, ge=1)
    """evaluations in a row without improvement that end the run"""
    min_delta: float = Field(default=0.0, ge=0.0)
    """an improvement must be larger than this to count"""
    restore_best: bool = True
    """write the best model evaluated rather than the last"""

    def start(self, model: nn.Module) -> Patience:
        return Patience()

    def before_step(self, ctx: StepContext, state: TechniqueState | None) -> Sequence[Action]:
        assert isinstance(state, Patience)
        if ctx.evaluation is not None and ctx.evaluation.step > state.seen_step:
            self._count(ctx.evaluation.score, ctx.evaluation.step, state)
        if state.num_worse < self.patience:
            return ()
        because = f"{state.num_worse} evaluations in a row were not better than {state.best:.5g} by {self.min_delta:g}"
        return (Stop(because=because, restore_best=self.restore_best),)

    def _count(self, score: float, step: int, state: Patience) -> None:
        state.seen_step = step
        if score < state.best - self.min_delta:
            state.best, state.num_worse = score, 0
        else:
            state.num_worse += 1
