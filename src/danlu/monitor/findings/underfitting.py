"""The model has learnt what it can, and that is little."""

import math
import statistics

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, level


class Underfitting(Diagnosis):
    """Found when the last evaluations stand still, training is no better than validation, and little was gained:

        |valid_1 − valid_k| < still · valid_k,    train > (1 − gap) · valid,    valid > (1 − gained) · first loss

    A note: a larger model, more steps or a higher rate may help, or there is no more in the data.
    """

    patience: int = 4
    """evaluations that are judged"""
    still: float = 0.01
    """change that counts as none"""
    gap: float = 0.05
    """of training below validation"""
    gained: float = 0.4
    """of the loss at the start"""

    def diagnose(self, history: History) -> list[Finding]:
        valid = [entry.metrics.get("loss", math.nan) for entry in history.evaluations[-self.patience :]]
        first, train = history.series("loss")[:1], level(history, "loss", 5)
        if len(valid) < self.patience or not first or not all(map(math.isfinite, valid)):
            return []
        now = statistics.median(valid)
        if max(valid) - min(valid) > self.still * abs(now) or not (1 - self.gained) * first[0] < now < first[0]:
            return []
        if not train > (1 - self.gap) * now:
            return []
        sentence = (
            f"The loss stands at {now:.4g} on both training and validation data, after {first[0]:.4g} at the start: "
            "the model does not fit even what it sees. A larger model, more steps or a higher learning rate may help"
        )
        evidence = {"loss": train, "valid_loss": now, "first_loss": first[0]}
        return self.found(history.evaluations[-1].step, sentence, evidence, severity="note")
