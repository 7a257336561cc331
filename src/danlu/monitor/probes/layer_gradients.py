"""How large each layer's gradient is."""

from collections.abc import Mapping

import torch
from pydantic import Field

from danlu.dist.local import is_sharded, local
from danlu.monitor.base import Probe, ProbeContext, Value
from danlu.monitor.layers import layer_of, trainable


class LayerGradients(Probe):
    """`layer_grad_norm/LAYER`: ‖g‖₂ of each block and each part beside them, as the optimiser got it.

    A layer without any gradient is not read. Cost: a pass over the gradients, on due steps only.
    """

    every: int = Field(default=50, ge=1)
    """steps from one reading to the next"""

    @torch.no_grad()
    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        entries = [(layer_of(name), p.grad) for name, p in trainable(ctx.facts.model) if p.grad is not None]
        if not entries:
            return {}
        squares = torch.stack(torch._foreach_norm([local(gradient) for _, gradient in entries])).float().square()
        if any(is_sharded(gradient) for _, gradient in entries):
            squares = ctx.facts.world.sum_across(squares)
        layers = list(dict.fromkeys(layer for layer, _ in entries))
        places = torch.tensor([layers.index(layer) for layer, _ in entries], device=squares.device)
        norms = squares.new_zeros(len(layers)).index_add_(0, places, squares).sqrt()
        return {f"layer_grad_norm/{layer}": norm for layer, norm in zip(layers, norms, strict=True)}
