"""Muon for the hidden matrices, AdamW for the rest."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from danlu.optim.base import Group, OptimizerKind, loss_of
from danlu.optim.kinds.adamw import AdamW


class Muon(OptimizerKind):
    """m ← μm + g; w ← w - lr (0.2 √max(rows, columns) NS(g + μm) + λw), NS(A) ≈ U Vᵀ of A = U S Vᵀ.

    Jordan et al. 2024, with the scale of Liu et al. 2025 (Muon is Scalable, equation 4), which makes its steps as large
    as AdamW's, so that one rate serves both. By `torch.optim.Muon` for matrices inside the network; embeddings, heads,
    norms and biases get AdamW. Needs half of Adam's memory for the matrices and five small matrix products a step.
    """

    state_per_weight: ClassVar[float] = 1.0

    momentum: float = 0.95
    """how slowly the average of the gradients forgets"""
    ns_steps: int = 5
    """Newton-Schulz iterations"""
    betas: tuple[float, float] = (0.9, 0.95)
    """of the AdamW part"""
    eps: float = 1e-8
    """of the AdamW part"""

    def build(self, groups: Sequence[Group], lr: float) -> Optimizer:
        matrices = [group for group in groups if group["role"] == "hidden"]
        others = [group for group in groups if group["role"] != "hidden"]
        parts: dict[str, Optimizer] = {}
        if matrices:
            parts["muon"] = torch.optim.Muon(
                matrices,
                lr=lr,
                momentum=self.momentum,
                ns_steps=self.ns_steps,
                weight_decay=0.0,
                adjust_lr_fn="match_rms_adamw",
            )
        if others:
            parts["adamw"] = AdamW(betas=self.betas, eps=self.eps).build(others, lr)
        return Together(parts)


class Together(Optimizer):
    """Several optimisers as one: their groups in a row (each knows its `part`) and one common state.

    Since it looks like any torch optimiser, its `state_dict` round-trips and is sharded like any other.
    """

    def __init__(self, parts: dict[str, Optimizer]) -> None:
        self._parts = parts
        groups: list[dict[str, Any]] = []
        for name, part in parts.items():
            for group in part.param_groups:
                group["part"] = name
                groups.append(group)
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of each part on its groups."""
        loss = loss_of(closure)
        for name, part in self._parts.items():
            # Loading a state replaces groups and state, so the parts are given today's.
            part.param_groups = [group for group in self.param_groups if group["part"] == name]
            part.state = self.state
            part.step()
        return loss
