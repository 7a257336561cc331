"""Takes away what keeps a model from learning."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Expectation, Rollback, SetDial

USUAL = {"dropout": 0.1, "weight_decay": 0.1, "label_smoothing": 0.1, "l1": 1e-5}
"""dial → what is no more than usual"""


class RemoveRegularisation(Controller):
    """Answers an over-regularised run: dials far above what is usual are turned down to it; else all are halved.

    Where the weights have been decayed away, and the finding says so, it goes back first. Expected: the training loss
    falls.
    """

    answers: ClassVar[tuple[str, ...]] = ("over_regularised",)
    order: ClassVar[int] = 45

    def decide(self, now: Situation) -> list[Action]:
        high = {dial: usual for dial, usual in USUAL.items() if now.dials.get(dial, 0.0) > 2 * usual}
        down = high or {dial: now.dials[dial] / 2 for dial in USUAL if now.dials.get(dial, 0.0) > 0}
        expects = Expectation(reading="loss", by=0.02, after=now.steps(0.05, least=30))
        back = [a for finding in now.findings for a in finding.suggests if isinstance(a, Rollback)] if down else []
        turns = [
            SetDial(because="the model is held back", dial=dial, number=number, expects=expects)
            for dial, number in down.items()
        ]
        return [*back, *turns]
