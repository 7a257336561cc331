"""Clips gradients that explode."""

import statistics
from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Expectation, SetDial


class Clip(Controller):
    """Answers `exploding_gradients`: clips to the median of the norms of late, or halves a clip.

    Expected: the loss is no higher.
    """

    answers: ClassVar[tuple[str, ...]] = ("exploding_gradients",)
    order: ClassVar[int] = 30

    def decide(self, now: Situation) -> list[Action]:
        norms = now.past.series("grad_norm", 50)
        if not norms or "grad_clip" not in now.dials:
            return []
        norm = min(statistics.median(norms), now.dials["grad_clip"] / 2)
        expects = Expectation(reading="loss", by=0.0, after=now.steps(0.1, least=50))
        return [SetDial(because="the gradients explode", dial="grad_clip", number=norm, expects=expects)]
