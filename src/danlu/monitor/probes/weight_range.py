"""How large each layer's weights are."""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from danlu.dist.local import is_sharded
from danlu.monitor.base import Probe, ProbeContext, Value
from danlu.monitor.layers import layer_of, sampled, trainable


class WeightRange(Probe):
    """`weight_rms/LAYER` and `weight_max/LAYER` (the largest absolute entry) of each layer's trained matrices.

    Over evenly spread entries, at most `sample` of each matrix; the largest of this process's part where a matrix is
    sharded. Cost: a pass over the sample, on due steps only.
    """

    every: int = Field(default=50, ge=1)
    """steps from one reading to the next"""
    sample: int = Field(default=16384, ge=1)
    """entries of each matrix"""

    @torch.no_grad()
    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        layers: dict[str, list[Tensor]] = {}
        sharded = False
        for name, parameter in trainable(ctx.facts.model):
            if parameter.ndim > 1:
                layers.setdefault(layer_of(name), []).append(sampled(parameter, self.sample))
                sharded = sharded or is_sharded(parameter)
        found: dict[str, Value] = {}
        for layer, parts in layers.items():
            entries = torch.cat(parts).float()
            sums = torch.stack((entries.square().sum(), entries.new_tensor(float(len(entries)))))
            largest = entries.abs().max() if len(entries) else sums[0]
            sums = ctx.facts.world.sum_across(sums) if sharded else sums
            found |= {f"weight_rms/{layer}": (sums[0] / sums[1]).sqrt(), f"weight_max/{layer}": largest}
        return found
