"""Stochastic depth."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.action import Action
from danlu.core.dials import Dial, constant
from danlu.core.errors import RequestError
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.techniques._surgery import Extended, block_lists, extend, first_of, with_first


class Skipping(nn.Module):
    """A block that, in training, leaves some rows as they came in; `skip_p` is the chance of a row."""

    skip_p: float = 0.0
    skip_share: float = 0.0

    def forward(self, *args: object, **kwargs: object) -> Tensor | tuple[object, ...]:
        output = super().forward(*args, **kwargs)
        if not self.training or self.skip_p == 0.0:
            return output
        before_BTD = args[0] if args else kwargs["hidden_states"]
        assert isinstance(before_BTD, Tensor)
        branch_BTD = first_of(output) - before_BTD
        kept_B = torch.rand(branch_BTD.shape[0], device=branch_BTD.device) >= self.skip_p
        scale_B = kept_B.to(branch_BTD.dtype) / (1.0 - self.skip_p)
        shape = (-1,) + (1,) * (branch_BTD.ndim - 1)
        return with_first(output, before_BTD + branch_BTD * scale_B.view(shape))


class StochasticDepth(Technique):
    """Leaves out whole blocks at random while training, deeper ones more often, for each row on its own.

        x ← x + (bₗ / (1 − pₗ)) · fₗ(x),    bₗ ~ Bernoulli(1 − pₗ),    pₗ = p · l / L      (l = 1 … L)

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", equations 2 and 4 (linear decay). As in most
    later implementations the kept branch is scaled up in training, so that nothing changes in evaluation; fₗ is the
    whole block, that is its output less its input. Turned by the dial `stochastic_depth` (p). Cost: none to speak
    of; no time is saved either, since a sharded or data-parallel model must compute every block.

    When not: in shallow models (fewer than some 12 blocks) and in fine-tuning with little data to spare.
    """

    state: ClassVar = "held"
    random_in_forward: ClassVar[bool] = True
    off: ClassVar[Mapping[str, object]] = {"p": 0.0}
    example: ClassVar[Mapping[str, object]] = {"p": 0.5}

    p: float = Field(default=0.1, ge=0.0, lt=1.0)
    """the chance that a row skips the deepest block"""

    def dials(self) -> Sequence[Dial]:
        return (constant("stochastic_depth", self.p, high=0.99),)

    def on_model(self, model: nn.Module) -> nn.Module:
        lists = block_lists(model)
        if not lists:
            raise RequestError("this model has no repeated blocks to skip", where="techniques.stochastic_depth")
        for blocks in lists:
            for number, block in enumerate(blocks, start=1):
                extend(block, Skipping)
                block.skip_share = number / len(blocks)  # type: ignore[assignment]
        return model

    def start(self, model: nn.Module) -> Extended:
        return Extended(model, Skipping)

    def before_step(self, ctx: StepContext, state: TechniqueState | None) -> Sequence[Action]:
        assert isinstance(state, Extended)
        for module in state.modules:
            module.skip_p = ctx.dial("stochastic_depth") * module.skip_share  # type: ignore[assignment, operator]
        return ()
