"""Ends a run whose loss is no number any more."""

from collections.abc import Sequence
from typing import ClassVar

from danlu.control.base import Controller
from danlu.core.action import Action, Stop
from danlu.core.clock import Clock
from danlu.core.dials import Dials
from danlu.core.finding import Finding


class StopOnNan(Controller):
    """Answers `nan_loss` with a failed end that names the step: no later step can mend weights that are NaN."""

    guard: ClassVar[bool] = True

    def decide(self, findings: Sequence[Finding], clock: Clock, dials: Dials) -> list[Action]:
        for finding in findings:
            if finding.name == "nan_loss":
                step = int(finding.evidence["step"])
                return [Stop(because=f"the loss became {finding.evidence['loss']} at step {step}", failed=True)]
        return []
