"""The training loss rises and stays up."""

import math
import statistics

from danlu.core.action import Rollback, SetDial
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, noise_of


class Divergence(Diagnosis):
    """Found when the loss, finite as it may be, has left its best level for good:

        every one of the last k readings > best + max(z · noise, share · (start − best), rise · |best|)

    best being the lowest median of k readings so far and start the median of the first k. A spike that passes is none.
    """

    k: int = 5
    """readings that one level is judged by"""
    z: float = 6.0
    """how many times the jitter"""
    share: float = 0.3
    """how much of what had been learnt is lost"""
    rise: float = 0.05
    """how much of the loss itself"""
    window: int = 2000
    """readings to look back"""

    def diagnose(self, history: History) -> list[Finding]:
        values = history.series("loss", self.window)
        if len(values) < 3 * self.k or not all(map(math.isfinite, values[-self.k :])):
            return []
        levels = [statistics.median(values[at : at + self.k]) for at in range(0, len(values) - self.k, self.k)]
        best, start = min(filter(math.isfinite, levels), default=math.nan), levels[0]
        noise = noise_of(values[-40 * self.k : -self.k])
        margin = max(self.z * noise, self.share * (start - best), self.rise * abs(best))
        if not min(values[-self.k :]) > best + margin:
            return []
        step, now = history.steps("loss", 1)[0], statistics.median(values[-self.k :])
        sentence = (
            f"The loss was down at {best:.4g}, and has gone up to {now:.4g} and stays there: the run is diverging. "
            "Mostly the learning rate is too high; go back to a good checkpoint and lower it"
        )
        suggests = (
            Rollback(because="the loss left its best level", to="best"),
            SetDial(because="divergence is mostly a rate too high", dial="learning_rate", kind="scale", number=0.5),
        )
        return [
            Finding(
                name=self.name(),
                step=step,
                severity="serious",
                sentence=sentence,
                evidence={"loss": now, "best": best, "start": start, "noise": noise},
                suggests=suggests,
            )
        ]
