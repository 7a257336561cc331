"""Draws weights anew that cannot learn any more."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Expectation, Reinitialise

CAUSES = ("rate_too_high", "divergence", "nan_loss")
"""what kills units itself, and would kill new ones: others see to that first"""


class Revive(Controller):
    """Answers findings that suggest to draw weights anew: layers that are dead, or a start that is out of all measure.

    Only in the first half of a run that began with fresh weights; the engine refuses it for weights that were trained
    before. Expected: the loss falls.
    """

    answers: ClassVar[tuple[str, ...]] = (
        "dead_units",
        "saturated_activations",
        "exploding_gradients",
        "bad_initialisation",
        *CAUSES,
    )
    order: ClassVar[int] = 10

    max_actions: int = 2
    """how often it may act in one run"""
    cooldown_steps: int = 30
    """steps that must lie between two times"""
    until: float = 0.5
    """the share of the run after which it is too late"""

    def decide(self, now: Situation) -> list[Action]:
        named = {finding.name for finding in now.findings}
        if now.clock.progress > self.until or named & {*CAUSES}:
            return []
        expects = Expectation(reading="loss", by=0.0, after=now.steps(0.1, least=30))
        wanted: list[Action] = [
            action.model_copy(update={"expects": expects, "because": finding.name.replace("_", " ")})
            for finding in now.findings
            for action in finding.suggests
            if isinstance(action, Reinitialise)
        ]
        return wanted[:1]
