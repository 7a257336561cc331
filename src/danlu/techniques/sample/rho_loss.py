"""RHO-loss: the rows that are worth learning, that can be learnt, and that are not yet learnt."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from danlu.core.batch import Batch
from danlu.core.technique import Setting, StepContext, Technique, TechniqueState
from danlu.techniques.distil._teacher import make_teacher
from danlu.techniques.sample._rows import Candidates


class RhoLoss(Technique):
    """Draws large batches and trains on the rows whose loss can still be brought down the most.

        kept are the n_b of n_B rows with the largest  l_i − l_i^ref,    n_b = ⌈keep · n_B⌉

    Source: Mindermann et al. 2022, "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet
    Learnt", algorithm 1. l is the row's mean loss over its targets, l^ref that of a model trained on data held out
    (the irreducible loss), which may be small. `train.batch` is n_B: make it 1 / keep times what the step is to be.
    Rows are ranked over all processes; those left out count neither as examples nor as targets. The reference is asked
    at each step rather than once for all rows, so that nothing need be kept. Without a reference the rows of the
    highest loss are kept. Cost: a forward pass over n_B rows of each of the two models.

    When not: where data are so few that an epoch is soon over, since most rows drawn are not trained on; without a
    reference on data with wrong labels.
    """

    state: ClassVar = "held"
    off: ClassVar[Mapping[str, object]] = {"keep": 1.0}
    example: ClassVar[Mapping[str, object]] = {"keep": 0.5}

    keep: float = Field(default=0.1, gt=0.0, le=1.0)
    """the share of the rows drawn that is trained on; 1 is off"""
    reference: str | None = None
    """the model trained on data held out: a run's folder, a model's, a hub name, or `start` for this one untrained"""

    def start_in(self, setting: Setting, model: nn.Module) -> TechniqueState | None:
        if self.reference is None or self.keep == 1:
            return None
        return make_teacher(self.reference, model, setting, where=f"techniques.{self.name()}")

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        if self.keep == 1:
            return batch
        rows = Candidates.of(batch, ctx, getattr(state, "forward", None))
        keep_N = torch.zeros(len(rows.losses_N), dtype=torch.bool)
        best = rows.losses_N.argsort(descending=True, stable=True)
        keep_N[best[: math.ceil(self.keep * len(best))]] = True
        return rows.only(keep_N)
