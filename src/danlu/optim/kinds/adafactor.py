"""Adafactor: second moments kept as rows and columns, for very little memory."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.optim import Optimizer

from danlu.optim.base import Group, OptimizerKind


class Adafactor(OptimizerKind):
    """v̂ = r cᵀ / Σr from averages of the rows and columns of g²; w ← w - max(ε₂, RMS(w)) ρ_t clip(g / √v̂).

    Shazeer and Stern 2018, algorithm 4, by `torch.optim.Adafactor`: ρ_t = min(lr, 1/√t). The rate is relative to each
    weight's own size, so it is larger than Adam's (1e-2 is usual).
    """

    state_per_weight: ClassVar[float] = 0.01
    takes_shards: ClassVar[bool] = False

    beta2_decay: float = -0.8
    """the second moment's forgetting: β₂(t) = 1 - t^this"""
    clip: float = 1.0
    """the largest root mean square of an update, before the rate"""
    eps: float = 1e-3
    """the smallest size that a weight is taken to have"""

    def build(self, groups: Sequence[Group], lr: float) -> Optimizer:
        return torch.optim.Adafactor(
            groups, lr=lr, beta2_decay=self.beta2_decay, eps=(None, self.eps), d=self.clip, weight_decay=0.0
        )
