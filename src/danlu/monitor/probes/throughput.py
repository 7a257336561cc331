"""How fast the run learns from data."""

import statistics
from collections.abc import Mapping

from danlu.monitor.base import Probe, ProbeContext, Series, Value, total_ratio


class Throughput(Probe):
    """`tokens_per_second` (padding not counted) and `examples_per_second`, over all processes, data wait included.

    `batch_examples` is the mean number of examples in a step, `passes` how often the data were gone through so far.
    `step_seconds` is the median time of a step, `step_seconds/max` the longest.
    """

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        return {
            "tokens": ctx.num_tokens,
            "examples": ctx.num_examples,
            "seconds": ctx.step_seconds,
            "passes": ctx.clock.epochs,
        }

    def summarise(self, series: Series) -> Mapping[str, float]:
        return {
            "tokens_per_second": total_ratio(series["tokens"], series["seconds"]),
            "examples_per_second": total_ratio(series["examples"], series["seconds"]),
            "batch_examples": statistics.fmean(series["examples"]),
            "step_seconds": statistics.median(series["seconds"]),
            "step_seconds/max": max(series["seconds"]),
            "passes": series["passes"][-1],
        }
