"""Which parameters are not trained, and whether gradients start from nothing."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from danlu.dist.local import local
from danlu.monitor.base import Facts, Probe, ProbeContext, Series, Value
from danlu.monitor.layers import layer_of, trainable


class Parameters(Probe):
    """What a step leaves out or carries along by mistake; what is as it should be is not read at all.

    * `frozen/LAYER`: the share of the layer's parameters without gradient that nobody asked to freeze;
    * `forgotten/LAYER`: the share that has gradients and that the optimiser does not know;
    * `gradients_kept`: the norm of the gradients that stand when the step's first forward begins; 0 when all is well.
    """

    every: int = Field(default=100, ge=1)
    """steps from one reading to the next"""

    @contextlib.contextmanager
    def around(self, facts: Facts) -> Iterator[object]:
        kept: list[Tensor] = []

        def look(module: nn.Module, _: object) -> None:
            if not kept and module.training and torch.is_grad_enabled():
                old = [local(p.grad) for _, p in trainable(facts.model) if p.grad is not None]
                kept.append(torch.stack(torch._foreach_norm(old)).sum() if old else torch.zeros(()))

        handle = register_module_forward_pre_hook(look)
        try:
            yield kept
        finally:
            handle.remove()

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        assert isinstance(kept, list)
        known = {id(parameter) for group in ctx.optimizer.param_groups for parameter in group["params"]}
        total: dict[str, int] = {}
        found: dict[str, float] = {}
        for name, parameter in ctx.facts.model.named_parameters():
            layer = layer_of(name)
            total[layer] = total.get(layer, 0) + parameter.numel()
            if not parameter.requires_grad and name not in ctx.facts.frozen_on_purpose:
                found[f"frozen/{layer}"] = found.get(f"frozen/{layer}", 0) + parameter.numel()
            elif parameter.requires_grad and id(parameter) not in known:
                found[f"forgotten/{layer}"] = found.get(f"forgotten/{layer}", 0) + parameter.numel()
        shares = {key: count / max(1, total[key.partition("/")[2]]) for key, count in found.items()}
        return shares | ({"gradients_kept": kept[0].float()} if kept else {})

    def summarise(self, series: Series) -> Mapping[str, float]:
        return {name: max(values) for name, values in series.items()}
