"""Controller: from findings to actions."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from danlu.core.action import Action
from danlu.core.clock import Clock
from danlu.core.config import Config
from danlu.core.dials import Dials
from danlu.core.finding import Finding


class Controller(Config):
    """The parent of all controllers: one file below `control/controllers`. It decides and remembers nothing.

    How often it may act is kept by the policy, from `max_actions` and `cooldown_steps`. A guard acts under every
    policy, also `off`: it only ends runs that cannot come to anything.
    """

    guard: ClassVar[bool] = False

    max_actions: int = Field(default=3, ge=1)
    """how often it may act in one run"""
    cooldown_steps: int = Field(default=0, ge=0)
    """steps that must lie between two times"""

    @classmethod
    def name(cls) -> str:
        """Its file's name."""
        return cls.__module__.rpartition(".")[2]

    def decide(self, findings: Sequence[Finding], clock: Clock, dials: Dials) -> list[Action]:
        """What to do about these new findings; a pure function of its arguments."""
        raise NotImplementedError
