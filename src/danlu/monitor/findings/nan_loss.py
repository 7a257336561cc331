"""The loss is no number any more."""

import math

from danlu.core.action import Stop
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class NanLoss(Diagnosis):
    """Found when a loss of the newest reading is NaN or infinite; names the step at which it became so."""

    def diagnose(self, history: History) -> list[Finding]:
        losses, steps = history.series("loss", 1), history.steps("loss", 1)
        if not losses or math.isfinite(losses[0]):
            return []
        marks = history.steps("loss/not_finite_step", 1)
        step = int(history.series("loss/not_finite_step", 1)[0]) if marks and marks[0] == steps[0] else steps[0]
        rate = history.series("learning_rate", 1)
        evidence = {"loss": losses[0], "step": float(step)} | ({"learning_rate": rate[0]} if rate else {})
        sentence = (
            f"The loss became {'NaN' if math.isnan(losses[0]) else 'infinite'} at step {step}: from there on every "
            "gradient is useless. Mostly the learning rate is too high, or a number overflowed"
        )
        stop = Stop(because=f"the loss is not finite since step {step}", failed=True)
        return [
            Finding(
                name=self.name(),
                step=steps[0],
                severity="serious",
                sentence=sentence,
                evidence=evidence,
                suggests=(stop,),
            )
        ]
