"""The training loss, and each further term of it."""

from collections.abc import Mapping

from danlu.monitor.base import Probe, ProbeContext, Series, Value, mean


class Loss(Probe):
    """`loss`: the task's mean loss over the step's targets; `loss/TERM`: what a technique added. Means over steps.

    `loss_max` is the largest of the task's losses since the last line.
    """

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        return {name if name == "loss" else f"loss/{name}": term for name, term in ctx.terms.items()}

    def summarise(self, series: Series) -> Mapping[str, float]:
        means = {name: mean(values) for name, values in series.items()}
        return means | ({"loss_max": max(series["loss"])} if "loss" in series else {})
