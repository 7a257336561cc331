"""Batch-size warm-up."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from danlu.core.clock import Clock
from danlu.core.dials import Dial
from danlu.core.technique import Technique
from danlu.maths.schedules import ramp


class BatchWarmup(Technique):
    """Begins with small batches and raises them to `train.batch`, in equal stages.

        B(p) = B · (begin + (1 − begin) ⌊stages · p / over⌋ / stages)  for p < over,   B from there on

    Sources: McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", section 2.2 (the useful batch grows
    as the loss falls); Brown et al. 2020, "GPT-3", appendix B (a linear warm-up of the batch). It turns the dial
    `batch_share`, by which the batch's own dial is multiplied; the loss stays the mean over the step's valid targets,
    and the learning rate what its schedule says. In a budget of tokens or epochs it buys more steps early. Cost: small
    batches use a large machine less well.

    When not: with batches that are small anyway, or in a budget of steps, where it only takes data away.
    """

    off: ClassVar[Mapping[str, object]] = {"begin": 1.0}
    example: ClassVar[Mapping[str, object]] = {"begin": 0.25, "over": 0.75, "stages": 3}

    begin: float = Field(default=0.125, gt=0.0, le=1.0)
    """the first batch, as a share of `train.batch`"""
    over: float = Field(default=0.1, ge=0.0, le=1.0)
    """the share of the budget over which it grows"""
    stages: int = Field(default=4, ge=1)
    """in how many equal steps; a batch is prepared ahead while its size stays"""

    def dials(self) -> Sequence[Dial]:
        def share(clock: Clock) -> float:
            return ramp(clock.progress, start=self.begin, over=self.over, stages=self.stages)

        return (Dial(name="batch_share", schedule=share, high=1.0),)
