"""Gradient noise."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from danlu.core.dials import Dial
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.dist.local import local, local_part


class GradientNoise(Technique):
    """Adds annealed Gaussian noise to the gradient.

        g ← g + N(0, σₜ²),    σₜ² = η / (1 + t)^γ      (t: finished steps)

    Source: Neelakantan et al. 2015, "Adding Gradient Noise Improves Learning for Very Deep Networks", equation 1, with
    η from {0.01, 0.3, 1.0} and γ = 0.55. Added after clipping, before weight decay. The noise is a function of seed
    and step, the same on every process and after every resume. It is turned by the dial `gradient_noise` (σₜ).
    Cost: as many random numbers a step as there are parameters.

    When not: with small batches, whose gradients are noisy already, and with pre-trained weights.
    """

    after: ClassVar[tuple[str, ...]] = ("grad_clip",)
    off: ClassVar[Mapping[str, object]] = {"eta": 0.0}
    example: ClassVar[Mapping[str, object]] = {"eta": 1e-4}

    eta: float = Field(default=0.01, ge=0.0)
    """the variance of the noise at the first step"""
    gamma: float = Field(default=0.55, ge=0.0)
    """how fast it is annealed"""

    def dials(self) -> Sequence[Dial]:
        return (Dial(name="gradient_noise", schedule=lambda clock: self.deviation(clock.step)),)

    def deviation(self, step: int) -> float:
        """σₜ."""
        return (self.eta / (1 + step) ** self.gamma) ** 0.5

    def on_grads(self, parameters: Sequence[nn.Parameter], ctx: StepContext, state: TechniqueState | None) -> None:
        deviation = ctx.dial("gradient_noise")
        if deviation == 0.0:
            return
        generator = ctx.generator("gradient_noise")
        for parameter in parameters:
            if parameter.grad is not None:
                noise = torch.randn(parameter.shape, generator=generator, device=ctx.device)
                grad = local(parameter.grad)
                grad.add_(local_part(noise, parameter.grad).to(grad.dtype), alpha=deviation)
