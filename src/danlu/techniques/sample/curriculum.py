"""Curriculum: easy examples first."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.technique import Setting, StepContext, Technique, TechniqueState
from danlu.maths.sampling import competence, rank_among
from danlu.techniques.sample._rows import Candidates, History

STAGES = 100
"""how often, at most, the set that is drawn from grows"""


class Difficulty(History):
    """Which share of the examples is no harder than each, (N,), and the weights in use."""

    def __init__(self, lengths_N: np.ndarray) -> None:
        super().__init__()
        self._ranks_N = torch.empty(len(lengths_N), dtype=torch.float64)
        order_N = torch.from_numpy(np.argsort(lengths_N, kind="stable"))
        self._ranks_N[order_N] = torch.arange(1, len(lengths_N) + 1).double() / len(lengths_N)
        self._stage = 0.0
        self._weights_N = self._ranks_N

    def weights(self, stage: float) -> Tensor:
        """1 for the examples of a stage, 0 for harder ones; the easiest is always among them."""
        if stage != self._stage:
            limit = max(stage, float(self._ranks_N.min()))
            self._stage, self._weights_N = stage, (self._ranks_N <= limit + 1e-9).double()
        return self._weights_N


class Curriculum(Technique):
    """Trains on the easiest examples first, and on all from some point of the run on.

        c(t) = min(1, (t (1 − c₀^p) + c₀^p)^(1/p)),    t: progress towards `full`
        drawn are the examples whose difficulty is among the lowest c(t)

    Source: Bengio et al. 2009, "Curriculum Learning"; Platanios et al. 2019, "Competence-based Curriculum Learning for
    Neural Machine Translation", algorithm 1 with the competences c_linear (p = 1), c_sqrt (p = 2) and c_root-p.
    Difficulty is the length, or with `by: loss` the model's own loss (self-paced: Kumar et al. 2010): then the rows of
    a batch whose loss is above the share c(t) of the last `history` losses are left out of the step, and count neither
    as examples nor as targets. An epoch stays as many draws as there are examples. Cost: none by length; by loss a
    forward pass over the batch while c(t) < 1.

    When not: with packed rows, which all have one length; on data that are clean and of one kind, where it mostly
    costs time.
    """

    off: ClassVar[Mapping[str, object]] = {"begin": 1.0}
    example: ClassVar[Mapping[str, object]] = {"begin": 0.2, "full": 0.9, "power": 1.0}

    by: Literal["length", "loss"] = "length"
    """what makes an example hard"""
    begin: float = Field(default=0.1, gt=0.0, le=1.0)
    """c₀: the share of the examples that the run begins with; 1 is off"""
    full: float = Field(default=0.5, gt=0.0, le=1.0)
    """the share of the run after which all examples are drawn"""
    power: float = Field(default=2.0, gt=0.0)
    """p: 1 adds examples evenly, a larger one faster at first"""
    history: int = Field(default=1024, ge=1)
    """by loss: how many of the last rows a loss is compared with"""

    def share(self, ctx: StepContext) -> float:
        """c(t), rounded up to a hundredth, so that the set does not change at every step."""
        now = competence(min(1.0, ctx.clock.progress / self.full), self.begin, self.power)
        return min(1.0, float(np.ceil(now * STAGES - 1e-9)) / STAGES)

    def start_in(self, setting: Setting, model: nn.Module) -> Difficulty:
        return Difficulty(setting.lengths_N)

    def on_draw(self, ctx: StepContext, state: TechniqueState | None) -> Tensor | None:
        assert isinstance(state, Difficulty)
        stage = self.share(ctx)
        return None if self.by != "length" or stage == 1 else state.weights(stage)

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        assert isinstance(state, Difficulty)
        stage = self.share(ctx)
        if self.by != "loss" or stage == 1:
            return batch
        rows = Candidates.of(batch, ctx)
        state.add(rows.losses_N, self.history)
        keep_N = rank_among(rows.losses_N, state.losses_M) <= stage
        if not keep_N.any() and len(keep_N):
            keep_N[rows.losses_N.argmin()] = True
        return rows.only(keep_N)
