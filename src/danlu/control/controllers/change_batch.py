"""Tries other batch sizes on forks of the run."""

import math
from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Branch, SetDial


class ChangeBatch(Controller):
    """Answers a batch that is too small or too large: forks with 4 and 16 times more or fewer examples a step.

    The rate goes with the square root of the batch (Malladi et al. 2022, On the SDEs and Scaling Rules for Adaptive
    Gradient Algorithms, definition 5.2). The best fork goes on, if it is better than the unchanged one.
    """

    answers: ClassVar[tuple[str, ...]] = ("batch_too_small", "batch_too_large")
    order: ClassVar[int] = 55

    max_actions: int = 2
    """how often it may act in one run"""
    factors: tuple[float, ...] = (4.0, 16.0)
    """how many times larger, or smaller"""

    def decide(self, now: Situation) -> list[Action]:
        dial = next((name for name in ("batch_examples", "batch_tokens") if name in now.dials), None)
        if dial is None or "learning_rate" not in now.dials or now.clock.progress > 0.8:
            return []
        finding = now.findings[0]
        because = finding.name.replace("_", " ")
        factors = self.factors if finding.name == "batch_too_small" else tuple(1 / factor for factor in self.factors)
        tries = tuple(
            (
                SetDial(because=because, dial=dial, kind="scale", number=now.factor(dial) * factor),
                SetDial(
                    because=because,
                    dial="learning_rate",
                    kind="scale",
                    number=now.factor("learning_rate") * math.sqrt(factor),
                ),
            )
            for factor in factors
            if now.dials[dial] * factor >= 1
        )
        steps = now.steps(0.02, least=10)
        return [Branch(because=because, tries=tries, steps=steps, decay_steps=max(1, steps // 2))] if tries else []
