"""Whether steps in a row pull the same way."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.dist.local import is_sharded
from danlu.monitor.base import Facts, Probe, ProbeContext, Value
from danlu.monitor.layers import sampled, trainable


class GradientDirection(Probe):
    """`gradient_cosine`: the cosine of the angle between the gradients of two steps in a row.

        c = g_t · g_{t-1} / (‖g_t‖ ‖g_{t-1}‖),    B_noise / B ≈ (1 - c) / c

    Both gradients come from batches of size B at nearly the same weights, so that their product estimates |G|², and c
    tells signal from noise as the gradient noise scale does (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.9). Near 1
    the batches say the same; near 0 they are noise; below 0 the steps jump over the valley. Taken over a sample: at
    most `sample` evenly spread entries of each of the `most` largest matrices. Cost: two copies of the sample.
    """

    every: int = Field(default=5, ge=1)
    """steps from one reading to the next"""
    sample: int = Field(default=512, ge=1)
    """entries of each matrix"""
    most: int = Field(default=8, ge=1)
    """matrices that are compared"""

    @contextlib.contextmanager
    def around(self, facts: Facts) -> Iterator[object]:
        matrices = sorted((p for _, p in trainable(facts.model) if p.ndim > 1), key=lambda p: -p.numel())
        chosen = [parameter for parameter in matrices[: self.most] if parameter.grad is not None]
        yield chosen, self._gradients(chosen)

    @torch.no_grad()
    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        assert isinstance(kept, tuple)
        chosen, before = kept
        if not chosen or any(parameter.grad is None for parameter in chosen):
            return {}
        now = self._gradients(chosen)
        products = torch.stack((now @ before, now @ now, before @ before))
        if any(map(is_sharded, chosen)):
            products = ctx.facts.world.sum_across(products)
        return {"gradient_cosine": products[0] / (products[1] * products[2]).sqrt().clamp(min=1e-30)}

    def _gradients(self, chosen: Sequence[nn.Parameter]) -> Tensor:
        parts = [sampled(parameter.grad, self.sample) for parameter in chosen if parameter.grad is not None]
        return torch.cat(parts).float() if parts else torch.zeros(0)
