"""The training loss does not move any more."""

import math
import statistics

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, noise_of


class Plateau(Diagnosis):
    """Found when the second half of a window of readings is no better than its first half:

        median(first) − median(second) < max(gain · |median(first)|, noise / √(window / 2))

    while the learning rate still stands above `active` of its peak: that a run comes to rest at the end of its
    schedule is no finding. A note, not a fault: the model may have learnt what there is to learn.
    """

    window: int = 100
    """readings that are cut into halves"""
    gain: float = 0.002
    """the smallest improvement, as a share of the loss, that counts as one"""
    active: float = 0.3
    """the share of its peak above which the learning rate could still move the model"""

    def diagnose(self, history: History) -> list[Finding]:
        values, rates = history.series("loss", self.window), history.series("learning_rate")
        if len(values) < self.window or not all(map(math.isfinite, values)):
            return []
        if rates and min(rates[-self.window :]) < self.active * max(rates):
            return []
        half = self.window // 2
        first, second = statistics.median(values[:half]), statistics.median(values[half:])
        if first - second >= max(self.gain * abs(first), noise_of(values) / math.sqrt(half)):
            return []
        step, since = history.steps("loss", 1)[0], history.steps("loss", self.window)[0]
        sentence = (
            f"The loss has stayed at about {second:.4g} since step {since}. Either the model has learnt what it can, "
            "or the learning rate does not fit: try a decay, a larger model, or more varied data"
        )
        return [
            Finding(
                name=self.name(),
                step=step,
                severity="note",
                sentence=sentence,
                evidence={"loss_before": first, "loss": second, "noise": noise_of(values)},
            )
        ]
