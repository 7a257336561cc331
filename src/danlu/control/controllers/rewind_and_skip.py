"""Goes back to before bad data, and does not draw them again."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, QuarantineData, Rollback


class RewindAndSkip(Controller):
    """Answers a spike of the loss that did harm, and data that changed of a sudden: back to the last good state, past
    the data drawn since, which are left out from now on.

    A spike alone is no reason: single bad batches are skipped before they do anything, and what passes by itself is
    best left alone. It acts when a spike is `serious`, or when the distribution has switched.
    """

    answers: ClassVar[tuple[str, ...]] = ("loss_spike", "distribution_switch")
    order: ClassVar[int] = 25

    max_actions: int = 3
    """how often it may act in one run"""
    cooldown_steps: int = 20
    """steps that must lie between two times"""

    def decide(self, now: Situation) -> list[Action]:
        finding = now.findings[0]
        if finding.name == "loss_spike" and finding.severity != "serious":
            return []
        because = f"{finding.name.replace('_', ' ')}: these data spoil what was learnt"
        return [QuarantineData(because=because), Rollback(because=because)]
