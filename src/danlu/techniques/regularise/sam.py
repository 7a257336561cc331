"""Sharpness-aware minimisation (SAM)."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from danlu.core.dials import Dial, constant
from danlu.core.technique import StepContext, T, Technique, TechniqueState


class Sam(Technique):
    """Takes the gradient where the loss is highest near the weights, rather than at them, to end in flat places.

        ε = ρ g / ‖g‖₂,   w ← w − η ∇L(w + ε)            adaptive:   ε = ρ w² g / ‖|w| g‖₂,  element by element

    Sources: Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving Generalization", equations 2 and
    3; Kwon et al. 2021, "ASAM", equation 5 (adaptive). The norm is over all trained weights and the whole step, all
    micro-batches and processes; the loss that is reported is the one at w. Turned by the dial `sam` (ρ). Cost: every
    step is computed twice, and one copy of the weights.

    When not: when each example is seen about once, or time is short: at equal time a longer run may do more.
    """

    off: ClassVar[Mapping[str, object]] = {"rho": 0.0}
    example: ClassVar[Mapping[str, object]] = {"rho": 0.1}

    rho: float = Field(default=0.05, ge=0.0)
    """how far to go uphill, as a norm of all weights; some 10 times more when adaptive"""
    adaptive: bool = False
    """measure the distance relative to each weight (ASAM)"""

    def dials(self) -> Sequence[Dial]:
        return (constant("sam", self.rho),)

    def gradients(
        self,
        compute: Callable[[], T],
        parameters: Sequence[nn.Parameter],
        ctx: StepContext,
        state: TechniqueState | None,
    ) -> T:
        rho = ctx.dial("sam")
        found = compute()
        if rho == 0.0:
            return found
        moved = [parameter for parameter in parameters if parameter.grad is not None]
        before = [parameter.detach().clone() for parameter in moved]
        try:
            _climb(moved, rho, adaptive=self.adaptive)
            compute()
        finally:
            with torch.no_grad():
                for parameter, weights in zip(moved, before, strict=True):
                    parameter.copy_(weights)
        return found


@torch.no_grad()
def _climb(parameters: Sequence[nn.Parameter], rho: float, *, adaptive: bool) -> None:
    """w ← w + ε; nothing where the gradient is zero."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    scales = [parameter.abs() if adaptive else torch.ones_like(parameter) for parameter in parameters]
    scaled = [grad * scale for grad, scale in zip(grads, scales, strict=True)]
    norm = nn.utils.get_total_norm(scaled)
    factor = rho / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    for parameter, direction, scale in zip(parameters, scaled, scales, strict=True):
        parameter.add_(direction * scale * factor)
