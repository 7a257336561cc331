"""From one step to the next the training data are of another kind."""

import statistics

from danlu.core.action import Rollback, Stop
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, noise_of


class DistributionSwitch(Diagnosis):
    """Found when the loss steps up between two readings, stays up, and the run itself gave no cause:

        all of the `after` newest > the highest of the `before` before them + max(z · noise, rise · their median)

    while the loss does not go on rising, the learning rate has not risen, and the loss was calm before the step. A run
    that diverges climbs, or leaves with large steps; a spike comes back.
    """

    before: int = 8
    """readings before the step"""
    after: int = 3
    """readings after it"""
    z: float = 6.0
    """times the jitter"""
    rise: float = 0.3
    """of the loss before"""

    def diagnose(self, history: History) -> list[Finding]:
        values = history.series("loss", self.before + self.after)
        rates = history.series("learning_rate", self.before + self.after)
        if len(values) < self.before + self.after or len(rates) < len(values):
            return []
        old, new = values[: self.before], values[self.before :]
        middle = statistics.median(old)
        margin = max(self.z * noise_of(old), self.rise * abs(middle))
        if not min(new) > max(old) + margin or new[-1] > 1.3 * min(new[:-1]):
            return []
        if rates[-1] > 1.001 * rates[0] or max(old) > middle + margin:
            return []
        step = history.steps("loss", self.after)[0]
        sentence = (
            f"At step {step} the loss stepped up from about {middle:.4g} to {statistics.median(new):.4g} and stays "
            "there, with the learning rate as it was: the training data are of another kind from there on. Mix kinds "
            "of data through the whole run, or stop with the best weights"
        )
        suggests = (
            Rollback(because="the data changed", to="best"),
            Stop(because="the training data changed their kind", restore_best=True),
        )
        evidence = {"loss_before": middle, "loss": statistics.median(new), "noise": noise_of(old), "step": float(step)}
        return self.found(history.steps("loss", 1)[0], sentence, evidence, suggests=suggests)
