"""Controller: from findings to actions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from pydantic import Field

from danlu.core.action import Action, SetDial
from danlu.core.clock import Clock
from danlu.core.config import Config
from danlu.core.finding import Evaluation, Finding


class Past(Protocol):
    """What a run has read of itself so far, as the monitor keeps it."""

    evaluations: list[Evaluation]

    def series(self, name: str, last: int | None = None) -> Sequence[float]: ...

    def steps(self, name: str, last: int | None = None) -> Sequence[int]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Situation:
    """All that a controller may look at.

    `findings` are those that it answers to and that nobody before it has acted on; they stand now, whether or not they
    are new. `dials` are the numbers that the dials show, `turned` the overrides that controllers have left on them.
    `acted` are the steps at which this controller acted before.
    """

    findings: Sequence[Finding]
    clock: Clock
    dials: Mapping[str, float]
    turned: Mapping[str, SetDial]
    past: Past
    acted: Sequence[int]

    def steps(self, share: float, *, least: int) -> int:
        """A share of the run in steps, at the pace kept so far; at least `least`."""
        clock = self.clock
        return max(least, round(share * clock.step / clock.progress) if clock.progress else least)

    def factor(self, dial: str) -> float:
        """What a controller has already multiplied a dial's schedule by."""
        action = self.turned.get(dial)
        return action.number if action is not None and action.kind == "scale" and action.number is not None else 1.0


class Controller(Config):
    """The parent of all controllers: one file below `control/controllers`. It decides and remembers nothing.

    It is asked when one of the findings that it `answers` stands (a mere note never asks for action), those of a lower
    `order` first; a finding that one has acted on is not shown to the next. How often it may act is kept by the policy,
    from `max_actions` and `cooldown_steps`; while an action of its own is still to be judged it waits, unless it is
    `urgent`. A guard acts under every policy, also `off`: it only ends runs that cannot come to anything.
    """

    answers: ClassVar[tuple[str, ...]] = ()
    order: ClassVar[int] = 50
    guard: ClassVar[bool] = False
    urgent: ClassVar[bool] = False

    max_actions: int = Field(default=3, ge=1)
    """how often it may act in one run"""
    cooldown_steps: int = Field(default=0, ge=0)
    """steps that must lie between two times"""

    @classmethod
    def name(cls) -> str:
        """Its file's name."""
        return cls.__module__.rpartition(".")[2]

    def decide(self, now: Situation) -> list[Action]:
        """What to do about these findings; a pure function of its argument."""
        return []
