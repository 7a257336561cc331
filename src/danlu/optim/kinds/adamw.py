"""AdamW, fused: the default."""

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from danlu.optim.base import Group, OptimizerKind

_FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


class AdamW(OptimizerKind):
    """m ← β₁m + (1 - β₁)g; v ← β₂v + (1 - β₂)g²; w ← w - lr (m̂ / (√v̂ + ε) + λw).

    Loshchilov and Hutter 2019, algorithm 2, by `torch.optim.AdamW` in its fused form where the device has one.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    """how slowly the averages of gradient and squared gradient forget; 0.95 is usual for language models"""
    eps: float = 1e-8
    """added to the denominator"""

    def build(self, groups: Sequence[Group], lr: float) -> Optimizer:
        fused = all(weight.device.type in _FUSED_DEVICES for group in groups for weight in group["params"])
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, weight_decay=0.0, fused=fused)
