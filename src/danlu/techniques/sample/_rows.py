"""Rows of a batch, chosen over all processes by their loss before the step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.technique import StepContext, TechniqueState


class History(TechniqueState):
    """The losses of the rows drawn last."""

    def __init__(self) -> None:
        self.losses_M = torch.zeros(0)

    def add(self, losses_N: Tensor, most: int) -> None:
        self.losses_M = torch.cat([self.losses_M, losses_N.cpu()])[-most:]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """The rows of the whole batch: `losses_N` is each row's mean over its targets, on the CPU; `own`: this process's.

    Rows without a target are left out, a process's stand-in among them: `places_B` tells where the others are.
    """

    batch: Batch
    losses_N: Tensor
    own: slice
    places_B: Tensor

    @classmethod
    def of(cls, batch: Batch, ctx: StepContext, reference: Callable[..., Any] | None = None) -> "Candidates":
        """Costs a forward pass; with a `reference` one of it, too, and the losses are those above its own."""
        losses_B = ctx.losses(batch).cpu()
        if reference is not None:
            losses_B = losses_B - ctx.losses(batch, reference).cpu()
        targets_B = batch.targets_B.cpu()
        losses_N, own = ctx.gather((losses_B / targets_B)[targets_B > 0])
        return cls(batch=batch, losses_N=losses_N, own=own, places_B=torch.nonzero(targets_B > 0).squeeze(1))

    def only(self, keep_N: Tensor) -> Batch:
        """The batch without the rows that are not to be kept; all of them are the batch itself."""
        chosen_B = self.places_B[keep_N[self.own]]
        if len(chosen_B) == self.batch.num_rows:
            return self.batch
        return self.batch.select(chosen_B.to(self.batch.targets_B.device)) if len(chosen_B) else self.batch.muted()
