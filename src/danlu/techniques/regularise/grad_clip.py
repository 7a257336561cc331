"""Gradient clipping by the global norm."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from danlu.core.dials import Dial, constant
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.dist.local import local


class GradClip(Technique):
    """Shortens the gradient to at most `norm`, keeping its direction.

        g ← g · min(1, norm / (‖g‖₂ + 1e-6)),    ‖g‖₂ over all parameters together

    Source: Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks", algorithm 1. The
    norm is that of the whole step, over micro-batches and processes, before weight decay. It is turned by the dial
    `grad_clip`. Cost: one pass over the gradients, no wait for the device.

    When not: with optimisers that use only the gradient's sign or direction (lion, muon) it changes little.
    """

    after: ClassVar[tuple[str, ...]] = ("gradual_unfreezing",)
    off: ClassVar[Mapping[str, object]] = {"norm": float("inf")}
    example: ClassVar[Mapping[str, object]] = {"norm": 0.1}

    norm: float = Field(default=1.0, gt=0.0)
    """the largest norm let through; inf lets everything through"""

    def dials(self) -> Sequence[Dial]:
        return (constant("grad_clip", self.norm),)

    def on_grads(self, parameters: Sequence[nn.Parameter], ctx: StepContext, state: TechniqueState | None) -> None:
        if ctx.dial("grad_clip") == float("inf"):
            return
        grads = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        factor = (ctx.dial("grad_clip") / (ctx.grad_norm() + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, factor)
