"""The learning rate that the optimiser used."""

from collections.abc import Mapping

from danlu.monitor.base import Probe, ProbeContext, Series, Value


class LearningRate(Probe):
    """`learning_rate`: that of the step that was just taken, before a group's own `lr_scale`."""

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        group = ctx.optimizer.param_groups[0]
        return {"learning_rate": group["lr"] / (group.get("lr_scale") or 1.0)}

    def summarise(self, series: Series) -> Mapping[str, float]:
        return {"learning_rate": series["learning_rate"][-1]}
