"""Ends a run that only gets worse, with its best weights."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Stop


class StopEarly(Controller):
    """Answers overfitting that nothing else was done about: the end, with the best weights evaluated."""

    answers: ClassVar[tuple[str, ...]] = ("overfitting",)
    order: ClassVar[int] = 60

    max_actions: int = 1
    """how often it may act in one run"""

    def decide(self, now: Situation) -> list[Action]:
        return [Stop(because="the model overfits", restore_best=True)]
