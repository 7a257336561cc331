"""Weight decay: l2 (decoupled) and l1."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from danlu.core.dials import Dial, constant
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.dist.local import local
from danlu.optim.groups import parameter_groups, plain_name


class Decayed(TechniqueState):
    """The names of the parameters that are decayed; held, not saved."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {name for group in parameter_groups(model) if group["decay"] for name in group["names"]}


class WeightDecay(Technique):
    """Pulls the weights towards zero at every step.

        l2:  w ← w − η λ₂ w                  decoupled: in the optimiser, beside its own step
        l1:  g ← g + λ₁ sign(w)              coupled: the subgradient of λ₁ ‖w‖₁, added to the gradient

    Sources: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", equation 10 (l2); Tibshirani 1996 (l1).
    l2 goes through the optimiser's own weight decay, so that optimisers with coupled decay (sgd) do as torch documents
    them. Both spare biases and norms: what is decayed follows from the optimiser's groups (`decay`). l1 is added after
    clipping and is not in the loss that is reported; with adaptive optimisers it makes weights small but not exactly
    zero. Dials: `weight_decay` (λ₂), `l1` (λ₁). Cost: l2 none, l1 one pass over the weights.

    When not: λ₂ much above 0.1 with adamw mostly underfits; l1 is for sparse or small models.
    """

    after: ClassVar[tuple[str, ...]] = ("grad_clip",)
    state: ClassVar = "held"
    off: ClassVar[Mapping[str, object]] = {"l2": 0.0, "l1": 0.0}
    example: ClassVar[Mapping[str, object]] = {"l2": 0.1, "l1": 1e-4}

    l2: float = Field(default=0.0, ge=0.0)
    """λ₂, decoupled from the gradient, multiplied by the learning rate as in adamw"""
    l1: float = Field(default=0.0, ge=0.0)
    """λ₁, added to the gradient as λ₁ sign(w)"""

    def dials(self) -> Sequence[Dial]:
        return constant("weight_decay", self.l2), constant("l1", self.l1)

    def start(self, model: nn.Module) -> Decayed:
        return Decayed(model)

    @torch.no_grad()
    def on_grads(self, parameters: Sequence[nn.Parameter], ctx: StepContext, state: TechniqueState | None) -> None:
        assert isinstance(state, Decayed)
        strength = ctx.dial("l1")
        if strength == 0.0:
            return
        for name, parameter in ctx.model.named_parameters():
            if parameter.grad is not None and plain_name(name) in state.names:
                local(parameter.grad).add_(local(parameter.detach()).sign(), alpha=strength)
