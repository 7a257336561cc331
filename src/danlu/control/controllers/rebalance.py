"""Weighs rare classes up."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, SetDial


class Rebalance(Controller):
    """Answers `class_imbalance`: the dial `class_balance` is turned to 1, at which every class counts the same.

    A row's loss is multiplied by (N / (C n_y)) to the power of the dial. Accuracy may fall where rare classes rise, so
    this is judged by the run's own metric at its evaluations, not here. Runs whose task knows no classes have no such
    dial.
    """

    answers: ClassVar[tuple[str, ...]] = ("class_imbalance",)
    order: ClassVar[int] = 45

    max_actions: int = 1
    """how often it may act in one run"""

    def decide(self, now: Situation) -> list[Action]:
        if now.dials.get("class_balance", 1.0) >= 1.0:
            return []
        return [SetDial(because="rare classes are not learnt", dial="class_balance", number=1.0)]
