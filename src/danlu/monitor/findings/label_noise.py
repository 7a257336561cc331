"""Some labels are wrong."""

import math
import statistics

from danlu.core.action import QuarantineData
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class LabelNoise(Diagnosis):
    """Found when the examples part into many that the model agrees with and some whose label it keeps rejecting:

        share ≤ low_share ≤ most,    low_p ≤ 0.5 high_p,    high_p ≥ agreed,    train loss > excess · validation loss

    over the visits so far (`probes/examples`). Hard examples look alike; but they are as frequent in the validation
    data, so the last condition holds them apart. Source: Pleiss et al. 2020 (AUM); the estimate of the share is that
    of two groups (Otsu 1979). Labels that are wrong in both sets are told by their ids alone, at `danlu inspect`.
    """

    share: float = 0.15
    """smallest share that is told"""
    most: float = 0.48
    """beyond it there is no saying who is right"""
    agreed: float = 0.55
    """mean probability of the others' labels"""
    excess: float = 1.3
    """training over validation loss"""
    at_least: int = 40
    """steps before anything is said"""

    def diagnose(self, history: History) -> list[Finding]:
        told = history.steps("low_share")
        if not told or not any(self._holds(history, at, step) for at, step in enumerate(told)):
            return []
        low, p, q = (history.series(name, 1)[0] for name in ("low_share", "low_p", "high_p"))
        sentence = (
            f"{low:.0%} of the examples carry a label that the model keeps rejecting (it gives their labels {p:.0%}, "
            f"those of the others {q:.0%}), and on the validation data it does better: these labels are probably "
            "wrong. Look at them, correct them or leave them out"
        )
        ids = history.examples.get("low_p", ())
        leave = QuarantineData(because="their labels are probably wrong", example_ids=ids)
        evidence = {"low_share": low, "low_p": p, "high_p": q}
        return self.found(told[-1], sentence, evidence, suggests=(leave,), example_ids=ids)

    def _holds(self, history: History, at: int, step: int) -> bool:
        low, p, q = (history.series(name)[at] for name in ("low_share", "low_p", "high_p"))
        if step < self.at_least or not self.share <= low <= self.most or p > 0.5 * q or q < self.agreed:
            return False
        train = [value for value in history.until("loss", step, 8) if math.isfinite(value)]
        valid = [
            entry.metrics["loss"] for entry in history.evaluations if entry.step <= step and "loss" in entry.metrics
        ]
        return bool(train and valid) and statistics.median(train) > self.excess * statistics.median(valid)
