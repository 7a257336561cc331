"""The training loss, and each further term of it."""

from collections.abc import Mapping

from danlu.monitor.base import Probe, ProbeContext, Value


class Loss(Probe):
    """`loss`: the task's mean loss over the step's targets; `loss/TERM`: what a technique added. Means over steps."""

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        return {name if name == "loss" else f"loss/{name}": term for name, term in ctx.terms.items()}
