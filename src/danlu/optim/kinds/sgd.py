"""Stochastic gradient descent with momentum."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.optim import Optimizer

from danlu.optim.base import Group, OptimizerKind


class SGD(OptimizerKind):
    """m ← μm + g + λw; w ← w - lr (g + μm with Nesterov, else m).

    Sutskever et al. 2013, by `torch.optim.SGD`. Unlike the others its weight decay is part of the gradient.
    """

    state_per_weight: ClassVar[float] = 1.0

    momentum: float = 0.9
    """how slowly the average of the gradients forgets; 0 keeps none"""
    nesterov: bool = False
    """look ahead along the momentum"""

    def build(self, groups: Sequence[Group], lr: float) -> Optimizer:
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=nesterov)
