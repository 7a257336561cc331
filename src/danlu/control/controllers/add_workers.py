"""Prepares batches in more threads when the model waits for its data."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, AddWorkers, Expectation


class MoreWorkers(Controller):
    """Answers `data_bound` and `slow_worker`: 8 threads, then 16. Expected: less waiting."""

    answers: ClassVar[tuple[str, ...]] = ("data_bound", "slow_worker")

    max_actions: int = 2
    """how often it may act in one run"""
    cooldown_steps: int = 50
    """steps that must lie between two times"""

    def decide(self, now: Situation) -> list[Action]:
        expects = Expectation(reading="data_wait_share", by=0.1, after=50)
        return [AddWorkers(because="the model waits for its data", workers=8 << len(now.acted), expects=expects)]
