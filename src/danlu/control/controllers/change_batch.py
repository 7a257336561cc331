"""Tries other batch sizes on forks of the run."""

import math
from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Branch, SetDial


class ChangeBatch(Controller):
    """Answers a batch that is too small or too large: forks with as many examples a step as the finding says.

    One fork keeps its rate; with the other the rate goes with the square root of the batch (Malladi et al. 2022, On the
    SDEs and Scaling Rules for Adaptive Gradient Algorithms, definition 5.2). The best fork goes on, if it is better
    than the unchanged one.
    """

    answers: ClassVar[tuple[str, ...]] = ("batch_too_small", "batch_too_large")
    order: ClassVar[int] = 55

    max_actions: int = 1
    """how often it may act in one run"""
    factor: float = 8.0
    """how many times larger, or smaller, where the finding does not say"""

    def decide(self, now: Situation) -> list[Action]:
        dial = next((name for name in ("batch_examples", "batch_tokens") if name in now.dials), None)
        if dial is None or "learning_rate" not in now.dials or now.clock.progress > 0.8:
            return []
        finding = now.findings[0]
        because = finding.name.replace("_", " ")
        larger = finding.name == "batch_too_small"
        told = (a.number for a in finding.suggests if isinstance(a, SetDial) and a.kind == "set" and a.dial == dial)
        asked = next((number / now.dials[dial] for number in told if number), None)
        factor = asked or (self.factor if larger else 1 / self.factor)
        if now.dials[dial] * factor < 1:
            return []
        size = SetDial(because=because, dial=dial, kind="scale", number=now.factor(dial) * factor)
        rate = now.factor("learning_rate") * math.sqrt(factor)
        tries = (
            (size,),
            (size, SetDial(because=because, dial="learning_rate", kind="scale", number=rate)),
        )
        steps = now.steps(0.1, least=20) if larger else now.steps(0.05, least=1)
        return [Branch(because=because, tries=tries, steps=steps, decay_steps=max(1, steps // 2))]
