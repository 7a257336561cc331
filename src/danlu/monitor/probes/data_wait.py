"""How long the run waits for its data."""

from collections.abc import Mapping

from danlu.monitor.base import Probe, ProbeContext, Series, Value, mean, total_ratio


class DataWait(Probe):
    """`data_wait_seconds`: mean wait of a step for its batch; `data_wait_share`: the same over the step's wall time.

    `data_wait_seconds/max` is the longest of these waits.
    """

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        return {"wait": ctx.data_wait_seconds, "seconds": ctx.step_seconds}

    def summarise(self, series: Series) -> Mapping[str, float]:
        return {
            "data_wait_seconds": mean(series["wait"]),
            "data_wait_seconds/max": max(series["wait"]),
            "data_wait_share": min(1.0, total_ratio(series["wait"], series["seconds"])),
        }
