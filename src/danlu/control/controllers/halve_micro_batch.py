"""Computes fewer rows at a time when memory runs short."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, HalveMicroBatch


class HalveMicroBatches(Controller):
    """Answers `memory_bound`: half as many rows at a time; the batch, and so what is learnt, stays what it was.

    When memory does run out the stepper does it by itself, under every policy, and the engine journals it here.
    """

    answers: ClassVar[tuple[str, ...]] = ("memory_bound",)

    cooldown_steps: int = 50
    """steps that must lie between two times"""

    def decide(self, now: Situation) -> list[Action]:
        if all("micro_batch_tokens" in finding.evidence for finding in now.findings):
            return []  # the stepper has just done it
        return [HalveMicroBatch(because="memory runs short")]
