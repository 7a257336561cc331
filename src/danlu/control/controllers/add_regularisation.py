"""Adds what keeps a model from learning its examples by heart."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Expectation, Rollback, SetDial

STRENGTHS = {"weight_decay": 0.1, "label_smoothing": 0.1, "dropout": 0.2}
"""dial → what it is turned to, at least"""


class AddRegularisation(Controller):
    """Answers overfitting in the first half of a run: back to the last good state, and regularisers turned up.

    Whatever dials of this kind the run has are turned; later, or the second time, `stop_early` keeps the best weights.
    The best weights are kept at the end in any case. Expected: the validation loss falls again.
    """

    answers: ClassVar[tuple[str, ...]] = ("overfitting",)
    order: ClassVar[int] = 50

    max_actions: int = 1
    """how often it may act in one run"""
    until: float = 0.5
    """the share of the run after which it is too late"""

    def decide(self, now: Situation) -> list[Action]:
        weak = {dial: least for dial, least in STRENGTHS.items() if now.dials.get(dial, least) < least}
        if not weak or now.clock.progress > self.until:
            return []
        expects = Expectation(reading="valid/loss", by=0.0, after=now.steps(0.1, least=20))
        turns = [
            SetDial(because="the model overfits", dial=dial, number=least, expects=expects)
            for dial, least in weak.items()
        ]
        return [Rollback(because="the model overfits", to="best", skip_data=False), *turns]
