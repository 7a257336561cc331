"""Ends a run whose loss is no number any more."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Stop


class StopOnNan(Controller):
    """Answers `nan_loss` with a failed end that names the step, when nobody else knows what to do about it."""

    answers: ClassVar[tuple[str, ...]] = ("nan_loss",)
    order: ClassVar[int] = 90
    guard: ClassVar[bool] = True

    def decide(self, now: Situation) -> list[Action]:
        if now.findings[0].severity != "serious":
            return []
        finding = now.findings[0]
        step, loss = int(finding.evidence["step"]), finding.evidence["loss"]
        return [Stop(because=f"the loss became {loss} at step {step}", failed=True)]
