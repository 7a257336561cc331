"""Tries higher learning rates on forks of the run."""

import math
from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Branch, SetDial


class RaiseRate(Controller):
    """Answers a rate that is too low: the run is forked with as many times the rate as the finding says, f, and
    with √f, and the best fork goes on.

    Nothing is raised without having been tried: what looks like too low a rate may be all there is to learn.
    """

    answers: ClassVar[tuple[str, ...]] = ("rate_too_low", "underfitting")
    order: ClassVar[int] = 50

    max_actions: int = 2
    """how often it may act in one run"""
    factor: float = 10.0
    """what the rate is multiplied by where the finding does not say"""

    def decide(self, now: Situation) -> list[Action]:
        if "learning_rate" not in now.dials or now.clock.progress > 0.8:
            return []
        because, standing = now.findings[0].name.replace("_", " "), now.factor("learning_rate")
        told = (a.number for a in now.findings[0].suggests if isinstance(a, SetDial) and a.kind == "scale")
        factor = next((number for number in told if number), self.factor)
        tries = tuple(
            (SetDial(because=because, dial="learning_rate", kind="scale", number=standing * times),)
            for times in (math.sqrt(factor), factor)
        )
        steps = now.steps(0.02, least=10)
        return [Branch(because=because, tries=tries, steps=steps, decay_steps=max(1, steps // 2))]
