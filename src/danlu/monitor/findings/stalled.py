"""The run stood still for a while."""

import statistics

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class Stalled(Diagnosis):
    """Found when a step took far longer than steps do in this run, and long for a person too:

        longest step > factor · median step,    and longer than `seconds`

    A machine that slept, a disk or a network that hung, or another program that took all.
    """

    factor: float = 50.0
    """times the usual step"""
    seconds: float = 60.0
    """the shortest halt worth a word"""
    at_least: int = 5
    """readings before it"""

    def diagnose(self, history: History) -> list[Finding]:
        longest, usual = history.series("step_seconds/max", 1), history.series("step_seconds")
        if len(usual) <= self.at_least:
            return []
        middle = statistics.median(usual[1:])
        if longest[0] <= max(self.seconds, self.factor * middle):
            return []
        sentence = (
            f"A step took {longest[0]:.0f} s, where {middle:.2g} s is usual: the run stood still. The machine may have "
            "slept, or a disk, the network or another process held it up"
        )
        evidence = {"step_seconds/max": longest[0], "step_seconds": middle}
        return self.found(history.steps("step_seconds", 1)[0], sentence, evidence)
