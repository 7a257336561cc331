"""DoReMi: a mixture of sources that follows what is still to be learnt of each."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.errors import RequestError
from danlu.core.technique import Setting, StepContext, Technique, TechniqueState
from danlu.maths.sampling import reweighed
from danlu.techniques.distil._teacher import make_teacher


class Mixture(TechniqueState):
    """The shares of the sources, their mean over the steps, and the newest excess loss of each."""

    def __init__(self, groups_N: Tensor) -> None:
        self._groups_N, self._sizes_G = groups_N, torch.bincount(groups_N).double()
        self.shares_G = torch.full_like(self._sizes_G, 1 / len(self._sizes_G))
        self.mean_G = self.shares_G.clone()
        self.excess_G = torch.zeros_like(self.shares_G)
        self.num_updates = 0
        self._forward: nn.Module | None = None
        self._reference: dict[int, float] = {}
        self._used: Tensor | None = None
        self._weights_N = torch.empty(0)

    def weights(self) -> Tensor:
        """An example's are its source's share by the size of the source."""
        if self._used is not self.shares_G:
            self._used = self.shares_G
            self._weights_N = (self.shares_G / self._sizes_G.clamp_min(1))[self._groups_N]
        return self._weights_N


class Doremi(Technique):
    """Draws more of the sources on which the model is furthest behind a reference, where data.train is a list.

        λ_g = max(0, Σ (l_i − l_i^ref) / Σ t_i) over the rows i of source g in the batch
        α_g ← (1 − c) α_g exp(η λ_g) / Σ + c / k

    Source: Xie et al. 2023, "DoReMi: Optimizing Data Mixtures Speeds Up Language Model Pretraining", algorithm 1.
    There the batch is drawn evenly and the loss weighted by α; here the sources are drawn by α, and the excess is cut
    off at zero for a source rather than for each token. A source without a row in the batch keeps its last λ. The
    journal holds the shares (`doremi/share_0`, ...) and their mean over the run (`doremi/mean_0`, ...), which is the
    mixture to train the final model with. Without a reference λ is the loss itself, and the hardest source is drawn
    the most. Cost: with a reference a forward pass of it.

    When not: with a single source; without a reference where sources differ in how much there is to learn at all.
    """

    needs_row_losses: ClassVar[bool] = True
    off: ClassVar[Mapping[str, object]] = {"step": 0.0}
    example: ClassVar[Mapping[str, object]] = {"step": 1.0}

    reference: str | None = None
    """the model to keep up with: a run's folder, a model's, a hub name, or `start` for this one untrained"""
    step: float = Field(default=1.0, ge=0.0)
    """η, how fast shares follow the excess loss; 0 is off, and draws as the data are"""
    smoothing: float = Field(default=1e-3, ge=0.0, le=1.0)
    """c, how much of an even mixture is always in it"""
    by: Literal["source", "label"] = "source"
    """what is mixed: the sources of data.train, or the classes"""

    def start_in(self, setting: Setting, model: nn.Module) -> TechniqueState | None:
        if self.step == 0:
            return None
        where = f"techniques.{self.name()}"
        mixture = Mixture(torch.from_numpy(setting.column(self.by)))
        if len(mixture.shares_G) == 1:
            mend = (
                "Give data.train as a list of several, and texts each in several files, so that the split leaves some"
            )
            raise RequestError("there is only one source to train on", where=where, mend=mend)
        if self.reference is not None:
            mixture._forward = make_teacher(self.reference, model, setting, where=where).forward
        return mixture

    def on_draw(self, ctx: StepContext, state: TechniqueState | None) -> Tensor | None:
        return state.weights() if isinstance(state, Mixture) else None

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        if isinstance(state, Mixture) and state._forward is not None:
            losses_B = ctx.losses(batch, state._forward).cpu().double()
            rows_B2 = torch.stack([batch.example_ids_B.cpu().double(), losses_B], 1)
            rows_N2, _ = ctx.gather(rows_B2[batch.targets_B.cpu() > 0])
            state._reference = {int(example): loss for example, loss in rows_N2.tolist()}
        return batch

    def after_step(self, ctx: StepContext, state: TechniqueState | None) -> None:
        if not isinstance(state, Mixture):
            return
        rows = ctx.row_losses()
        ids_B, groups_B = rows.example_ids_B.cpu(), state._groups_N[rows.example_ids_B.cpu()]
        known_B = torch.tensor([state._reference.get(example, 0.0) for example in ids_B.tolist()])
        zero_G = torch.zeros_like(state.shares_G)
        sums_G = zero_G.index_add(0, groups_B, rows.losses_B.cpu().double() - known_B.double())
        targets_G = zero_G.index_add(0, groups_B, rows.targets_B.cpu().double())
        excess_G = (sums_G / targets_G).clamp_min(0)
        state.excess_G = torch.where(targets_G > 0, excess_G, state.excess_G)
        state.shares_G = reweighed(state.shares_G, state.excess_G, self.step, self.smoothing)
        state.num_updates += 1
        state.mean_G = state.mean_G + (state.shares_G - state.mean_G) / state.num_updates

    def readings(self, state: TechniqueState | None) -> Mapping[str, float]:
        if not isinstance(state, Mixture):
            return {}
        told = {"share": state.shares_G, "mean": state.mean_G}
        return {f"doremi/{name}_{at}": share for name, of in told.items() for at, share in enumerate(of.tolist())}
