"""Ends a run that only gets worse, with its best weights."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Stop

CAUSES = ("rate_too_high", "divergence", "nan_loss", "oscillation", "over_regularised", "shuffled_labels")
"""what makes validation worse without any learning by heart"""


class StopEarly(Controller):
    """Answers overfitting that nothing else was done about: the end, with the best weights evaluated."""

    answers: ClassVar[tuple[str, ...]] = ("overfitting", *CAUSES)
    order: ClassVar[int] = 60

    max_actions: int = 1
    """how often it may act in one run"""

    def decide(self, now: Situation) -> list[Action]:
        if {finding.name for finding in now.findings} & {*CAUSES}:
            return []
        return [Stop(because="the model overfits", restore_best=True)]
