"""The norm of the gradient."""

from collections.abc import Mapping

from danlu.monitor.base import Probe, ProbeContext, Series, Value, mean


class GradNorm(Probe):
    """`grad_norm`: ‖g‖₂ over all parameters, before clipping, mean over steps; `grad_norm/max`: the largest of them."""

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        return {"grad_norm": ctx.grad_norm}

    def summarise(self, series: Series) -> Mapping[str, float]:
        norms = series["grad_norm"]
        return {"grad_norm": mean(norms), "grad_norm/max": max(norms)}
