"""How much each layer's weights move at a step, against their size."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from pydantic import Field
from torch import Tensor

from danlu.dist.local import is_sharded
from danlu.monitor.base import Facts, Probe, ProbeContext, Value
from danlu.monitor.layers import layer_of, sampled, trainable


class UpdateRatio(Probe):
    """`update_ratio/LAYER`: ‖w after − w before‖₂ / ‖w before‖₂ of one step, for each block and each part beside them.

    About 1e-3 is usual with adamw; far below, a layer hardly learns, far above, it is shaken. Both norms are taken
    over the same evenly spread entries, at most `sample` of each parameter, so that the copy from before the step
    stays small. Cost: a pass over the sample, on due steps only.
    """

    every: int = Field(default=50, ge=1)
    """steps from one reading to the next"""
    sample: int = Field(default=16384, ge=1)
    """entries of each parameter that are compared"""

    @contextlib.contextmanager
    def around(self, facts: Facts) -> Iterator[object]:
        yield {name: sampled(parameter, self.sample).clone() for name, parameter in trainable(facts.model)}

    @torch.no_grad()
    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        assert isinstance(kept, dict)
        parameters = dict(ctx.facts.model.named_parameters())
        squares: dict[str, list[Tensor]] = {}
        for name, before in kept.items():
            now = sampled(parameters[name], self.sample)
            pair = torch.stack(((now - before).float().square().sum(), before.float().square().sum()))
            squares.setdefault(layer_of(name), []).append(pair)
        totals = torch.stack([torch.stack(pairs).sum(0) for pairs in squares.values()])
        if any(is_sharded(parameter) for parameter in parameters.values()):
            totals = ctx.facts.world.sum_across(totals)
        ratios = (totals[:, 0] / totals[:, 1].clamp(min=1e-30)).sqrt()
        return {f"update_ratio/{layer}": ratio for layer, ratio in zip(squares, ratios, strict=True)}
