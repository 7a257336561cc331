"""Goes back to the last good state with a lower learning rate."""

import math
from typing import ClassVar

from pydantic import Field

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Expectation, Rollback, SetDial


class RewindAndHalve(Controller):
    """Answers a run that diverges, oscillates, overflows or moves too fast: back to the last good state, lower rate.

    The first time the rate is halved, then divided by 4, then by 8, ..., or by more where the finding says so: a rate
    that is a hundred times too high is found in four tries. A loss that is no number right after it went back has
    another cause, and is left to others. Expected: the loss no higher than it was.
    """

    answers: ClassVar[tuple[str, ...]] = ("divergence", "rate_too_high", "oscillation", "nan_loss")
    order: ClassVar[int] = 20
    urgent: ClassVar[bool] = True

    max_actions: int = Field(default=5, ge=1)
    """how often it may act in one run"""
    cooldown_steps: int = 15
    """steps that must lie between two times"""

    def decide(self, now: Situation) -> list[Action]:
        grave = [finding for finding in now.findings if finding.name != "nan_loss" or finding.severity == "serious"]
        if not grave or "learning_rate" not in now.dials:
            return []
        finding = grave[0]
        times = len(now.acted)
        asked = (a.number for a in finding.suggests if isinstance(a, SetDial) and a.kind == "scale" and a.number)
        factor = now.factor("learning_rate") * min(0.5 ** (times + 1), *asked, 1.0)
        because = f"{finding.name.replace('_', ' ')}: the learning rate is most likely too high"
        expects = Expectation(reading="loss", by=_by(finding.evidence.get("loss")), after=now.steps(0.05, least=20))
        return [
            Rollback(because=because, to="best"),
            SetDial(because=because, dial="learning_rate", kind="scale", number=factor, expects=expects),
        ]


def _by(loss: float | None) -> float:
    """After a loss that was no number, any number is better."""
    return -0.1 if loss is None or math.isfinite(loss) else -math.inf
