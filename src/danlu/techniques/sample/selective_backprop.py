"""Selective back-propagation: hard-example focus."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from danlu.core.batch import Batch
from danlu.core.seeds import generator_of
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths.sampling import rank_among
from danlu.techniques.sample._rows import Candidates, History


class SelectiveBackprop(Technique):
    """Trains on the rows of a batch that have a high loss; of the others on some.

        P(keep row) = F(l)^β,    F: the share of the last `history` losses that are not above l

    Source: Jiang et al. 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers", section 3
    (arXiv:1910.00762). l is the row's mean loss over its targets, from a forward pass before the step. Rows that are
    not kept count neither as examples nor as targets: the step is the mean over those kept, and with β = 1 about half
    of the batch. At least one row is kept. Cost: a forward pass over the batch; what is saved are forward and backward
    of the rows dropped.

    When not: with wrong labels, which have the highest loss; where the loss itself must stay an estimate of the data's
    (it is biased on purpose: `importance_sampling` is not).
    """

    off: ClassVar[Mapping[str, object]] = {"beta": 0.0}
    example: ClassVar[Mapping[str, object]] = {"beta": 1.0, "history": 32}

    beta: float = Field(default=1.0, ge=0.0)
    """how strongly low losses are passed over; 0 is off"""
    history: int = Field(default=1024, ge=1)
    """how many of the last rows a loss is compared with"""

    def start(self, model: nn.Module) -> History:
        return History()

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        assert isinstance(state, History)
        if self.beta == 0:
            return batch
        rows = Candidates.of(batch, ctx)
        state.add(rows.losses_N, self.history)
        chance_N = rank_among(rows.losses_N, state.losses_M) ** self.beta
        draws = generator_of(ctx.seed, "selective_backprop", ctx.clock.step)
        keep_N = torch.rand(len(chance_N), generator=draws, dtype=torch.float64) < chance_N
        if not keep_N.any() and len(keep_N):
            keep_N[rows.losses_N.argmax()] = True
        return rows.only(keep_N)
