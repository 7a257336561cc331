"""A sudden jump of the training loss."""

import math
import statistics

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, noise_of


class LossSpike(Diagnosis):
    """Found when the newest loss stands far above what came before: all of

        x > median + z · noise,    x − median > reach · (largest − median),    x > (1 + rise) · median

    over the window of readings before it, noise being the jitter of that window. The second keeps batches of a heavy
    tail from being called spikes.
    """

    window: int = 40
    """readings to compare with"""
    at_least: int = 10
    """readings needed before anything is said"""
    z: float = 10.0
    """how many times the jitter"""
    reach: float = 3.0
    """how many times the largest excursion so far"""
    rise: float = 0.15
    """how much of the loss itself"""

    def diagnose(self, history: History) -> list[Finding]:
        values = history.series("loss", self.window + 1)
        if len(values) <= self.at_least or not all(map(math.isfinite, values)):
            return []
        *before, newest = values
        middle, noise = statistics.median(before), noise_of(before)
        bounds = (self.z * noise, self.reach * (max(before) - middle), self.rise * abs(middle))
        if newest - middle <= max(bounds):
            return []
        step = history.steps("loss", 1)[0]
        sentence = (
            f"The loss jumped from about {middle:.4g} to {newest:.4g} at step {step}. One bad batch does that and "
            "passes; if it happens again, look at the data there, clip the gradient or lower the learning rate"
        )
        return [
            Finding(
                name=self.name(),
                step=step,
                severity="warning",
                sentence=sentence,
                evidence={"loss": newest, "median": middle, "noise": noise},
            )
        ]
