"""AdamW, fused: the default."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch.optim import Optimizer

from danlu.optim.base import Group, OptimizerKind
from danlu.optim.compact import CompactAdamW

_FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


class AdamW(OptimizerKind):
    """m ← β₁m + (1 - β₁)g; v ← β₂v + (1 - β₂)g²; w ← w - lr (m̂ / (√v̂ + ε) + λw).

    Loshchilov and Hutter 2019, algorithm 2, by `torch.optim.AdamW` in its fused form where the device has one.
    With `states: bf16` the two averages take half of the memory, with `8bit` (Dettmers et al. 2022, block by block) a
    quarter; the step then takes longer and the weights stay in fp32. 8bit cannot be sharded.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    """how slowly the averages of gradient and squared gradient forget; 0.95 is usual for language models"""
    eps: float = 1e-8
    """added to the denominator"""

    states: Literal["fp32", "bf16", "8bit"] = "fp32"
    """how the two averages are kept"""

    @property
    def state_per_weight(self) -> float:  # type: ignore[override]
        """In fp32 numbers; embeddings and heads, whose averages stay whole with 8bit, are not told apart."""
        return {"fp32": 2.0, "bf16": 1.0, "8bit": 0.51}[self.states]

    @property
    def takes_shards(self) -> bool:  # type: ignore[override]
        """Blocks of codes are cut across rows, so they have no shards."""
        return self.states != "8bit"

    def build(self, groups: Sequence[Group], lr: float) -> Optimizer:
        if self.states != "fp32":
            return CompactAdamW(groups, lr=lr, betas=self.betas, eps=self.eps, states=self.states)
        fused = all(weight.device.type in _FUSED_DEVICES for group in groups for weight in group["params"])
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, weight_decay=0.0, fused=fused)
