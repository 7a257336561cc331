"""How noisy the gradient is: the batch size beyond which more examples a step gain little."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.maths.noise_scale import signal_and_noise
from danlu.monitor.base import Facts, Probe, ProbeContext, Series, Value, total_ratio
from danlu.monitor.layers import sampled, trainable

_LEAST_SIGNAL = 1e-6


class GradientNoise(Probe):
    """`gradient_noise_scale`: B_simple = tr(Σ) / |G|² in examples, where a step has several micro-batches.

    Source: McCandlish et al. 2018, arXiv:1812.06162, eq. 2.9, with the unbiased estimates of its appendix A.1 from the
    gradients of the micro-batches and of the whole batch. Over at most `sample` entries of each of the `most` largest
    matrices; for one process, whose micro-batches are taken as equally large. With one micro-batch a step there is
    nothing to compare; `gradient_cosine` then tells the same from step to step. Cost: a copy of the sample for each
    micro-batch, on due steps only.
    """

    every: int = Field(default=50, ge=1)
    """steps from one reading to the next"""
    sample: int = Field(default=4096, ge=1)
    """entries of each matrix"""
    most: int = Field(default=16, ge=1)
    """matrices that are looked at"""

    @contextlib.contextmanager
    def around(self, facts: Facts) -> Iterator[object]:
        pieces: dict[int, list[Tensor]] = {}
        handles = []
        if facts.world.size == 1:
            matrices = sorted((p for _, p in trainable(facts.model) if p.ndim > 1), key=lambda p: -p.numel())
            for number, parameter in enumerate(matrices[: self.most]):
                hook = self._after_micro_batch(pieces.setdefault(number, []))
                handles.append(parameter.register_post_accumulate_grad_hook(hook))
        try:
            yield pieces
        finally:
            for handle in handles:
                handle.remove()

    def _after_micro_batch(self, sums: list[Tensor]) -> Callable[[nn.Parameter], None]:
        def keep(parameter: nn.Parameter) -> None:
            if parameter.grad is not None:
                sums.append(sampled(parameter.grad, self.sample).float().clone())

        return keep

    @torch.no_grad()
    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        assert isinstance(kept, dict)
        number = len(kept[0]) if kept else 0
        whole = [sums for sums in kept.values() if len(sums) == number]
        if number < 2:
            return {}
        sums_KN = torch.stack([torch.cat([sums[micro] for sums in whole]) for micro in range(number)])
        parts_KN = torch.diff(sums_KN, dim=0, prepend=torch.zeros_like(sums_KN[:1])) * number
        signal, noise = signal_and_noise(
            parts_KN.square().sum(1).mean(), sums_KN[-1].square().sum(), ctx.num_examples / number, ctx.num_examples
        )
        return {"signal": signal, "noise": noise}

    def summarise(self, series: Series) -> Mapping[str, float]:
        signal, noise = sum(series["signal"]), sum(series["noise"])
        return {"gradient_noise_scale": max(0.0, total_ratio([noise], [max(signal, _LEAST_SIGNAL * abs(noise))]))}
