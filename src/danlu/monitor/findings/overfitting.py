"""Validation gets worse while training gets better."""

import math
import statistics

from danlu.core.action import Stop
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, noise_of


class Overfitting(Diagnosis):
    """Found when the last evaluations are all clearly worse than the best one, and the training loss fell meanwhile.

        best < each of the last `patience` scores < the next,    the last > best + b,
        train now < (1 − margin) · train at the best,    b = max(z · jitter, margin · |best|)

    the jitter being that of the evaluations since the best: validation scores of small sets go up and down. The score
    is the validation loss where there is one, else the judged metric with lower made better. A note where the judged
    metric is not harmed by `harm` of its best: then the model has only grown too sure of itself.
    """

    patience: int = 3
    """evaluations in a row that must be worse"""
    margin: float = 0.05
    """how much worse, as a share of the best score, and how much better in training"""
    harm: float = 0.03
    """how much worse the judged metric must be at each of them, as a share of its best"""
    z: float = 4.0
    """how much worse, in jitters of the evaluations"""
    readings: int = 5
    """readings that the training loss is judged by"""

    def diagnose(self, history: History) -> list[Finding]:
        scores = [entry.metrics.get("loss", entry.score) for entry in history.evaluations]
        if len(scores) <= self.patience or not all(map(math.isfinite, scores)):
            return []
        at = min(range(len(scores)), key=scores.__getitem__)
        best, recent = scores[at], scores[-self.patience :]
        if at >= len(scores) - self.patience or min(recent) <= best:
            return []
        bound = max(self.margin * abs(best), self.z * noise_of(scores[at:]))
        if recent[-1] <= best + bound or list(recent) != sorted(recent):
            return []
        then = history.until("loss", history.evaluations[at].step, self.readings)
        now = history.series("loss", self.readings)
        if not then or not now or not statistics.median(now) < (1 - self.margin) * statistics.median(then):
            return []
        best_step = history.evaluations[at].step
        sentence = (
            f"Since step {best_step} the model gets better on the training data and worse on the validation data "
            f"({best:.4g} → {scores[-1]:.4g}): it learns its examples by heart. Stop here with the best weights, or "
            "add data, weight decay or dropout"
        )
        evidence = {
            "valid_best": best,
            "valid": scores[-1],
            "best_step": float(best_step),
            "train_then": statistics.median(then),
            "train": statistics.median(now),
        }
        return [
            Finding(
                name=self.name(),
                step=history.evaluations[-1].step,
                severity="warning" if self._harmed(history) else "note",
                sentence=sentence,
                evidence=evidence,
                suggests=(Stop(because="the model overfits", restore_best=True),),
            )
        ]

    def _harmed(self, history: History) -> bool:
        judged = [entry.score for entry in history.evaluations]
        return min(judged[-self.patience :]) > min(judged) + self.harm * abs(min(judged))
