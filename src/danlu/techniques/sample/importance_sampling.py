"""Importance sampling by loss."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.technique import Setting, StepContext, Technique, TechniqueState
from danlu.maths.sampling import importance


class LastSeen(TechniqueState):
    """The loss and targets of each example when it was last trained on (NaN: never), and the weights in use.

    `weights_N` has mean 1 once `refreshed`; `scale` is Σ p t over the mean of t.
    """

    def __init__(self, num_examples: int) -> None:
        self.losses_N = torch.full((num_examples,), torch.nan)
        self.targets_N = torch.full((num_examples,), torch.nan)
        self.weights_N = torch.ones(num_examples, dtype=torch.float64)
        self.scale = 1.0
        self.refreshed = False


class ImportanceSampling(Technique):
    """Draws examples in proportion to their loss, and weighs them down by as much, so that the gradient stays unbiased.

        p_i = (1 − λ) l_i / Σl + λ / N,    the row's loss × s / (N p_i),    s = N Σ p_i t_i / Σ t_i

    Source: Katharopoulos & Fleuret 2018, "Not All Samples Are Created Equal", section 3, with the loss in the place of
    their bound on the gradient's norm, as in Loshchilov & Hutter 2016, and with the losses that the examples had when
    they were last trained on in the place of a forward pass: stale losses cost variance, not bias. l_i is the row's
    loss summed over its t_i targets; s makes up for rows with more targets being drawn more often, and is 1 where all
    have the same number. Examples not seen yet count as the mean. Cost: two numbers an example.

    When not: with wrong labels, which it draws all the time; in the first epoch, where it knows little; with whatever
    takes rows out of the batch, which the weights do not make up for.
    """

    needs_row_losses: ClassVar[bool] = True
    off: ClassVar[Mapping[str, object]] = {"uniform": 1.0}
    example: ClassVar[Mapping[str, object]] = {"uniform": 0.1, "every": 2}

    uniform: float = Field(default=0.3, gt=0.0, le=1.0)
    """λ: the share of draws that do not look at the loss, so that no weight exceeds 1 / λ; 1 is off"""
    every: int = Field(default=10, ge=1)
    """steps between two looks at the losses"""

    def start_in(self, setting: Setting, model: nn.Module) -> TechniqueState | None:
        return None if self.uniform == 1 else LastSeen(len(setting.lengths_N))

    def on_draw(self, ctx: StepContext, state: TechniqueState | None) -> Tensor | None:
        return state.weights_N if isinstance(state, LastSeen) and state.refreshed else None

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        if not isinstance(state, LastSeen) or not state.refreshed:
            return batch
        weights_B = (state.scale / state.weights_N[batch.example_ids_B.cpu()]).float().to(batch.targets_B.device)
        return batch.replace(weights_B=weights_B if batch.weights_B is None else batch.weights_B * weights_B)

    def after_step(self, ctx: StepContext, state: TechniqueState | None) -> None:
        if not isinstance(state, LastSeen):
            return
        rows = ctx.row_losses()
        ids_B = rows.example_ids_B.cpu()
        state.losses_N[ids_B] = rows.losses_B.cpu()
        state.targets_N[ids_B] = rows.targets_B.cpu().float()
        if ctx.clock.step % self.every == 0:
            targets_N = state.targets_N.double()
            targets_N = torch.where(targets_N.isnan(), targets_N.nanmean(), targets_N)
            state.weights_N, state.refreshed = importance(state.losses_N, self.uniform), True
            state.scale = float((state.weights_N * targets_N).sum() / targets_N.sum())
