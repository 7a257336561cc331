"""Model FLOP utilisation against what this machine was measured to do."""

from collections.abc import Mapping

from danlu.monitor.base import Probe, ProbeContext, Series, Value, total_ratio


class Mfu(Probe):
    """`mfu`: the share of the machine's measured matrix-product rate that goes into the model.

        mfu = FLOPs per token · tokens per second / measured GEMM FLOP/s

    Source: Chowdhery et al. 2022 (PaLM), appendix B, with the measured rate in place of the data sheet's. Recomputed
    activations do not count as work. Nothing is read when the rate or the model's FLOPs are unknown.
    """

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        if not ctx.facts.gemm_rate or not ctx.facts.flops_per_token:
            return {}
        return {
            "done": ctx.facts.flops_per_token * ctx.num_tokens,
            "possible": ctx.facts.gemm_rate * ctx.step_seconds,
        }

    def summarise(self, series: Series) -> Mapping[str, float]:
        return {"mfu": total_ratio(series["done"], series["possible"])}
