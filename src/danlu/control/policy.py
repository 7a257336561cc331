"""Policy: what controllers may do: nothing, be told, or act; and how often."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from danlu.control.base import Controller
from danlu.core import discover
from danlu.core.action import Action
from danlu.core.clock import Clock
from danlu.core.dials import Dials
from danlu.core.finding import Finding

Mode = Literal["off", "suggest", "auto"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """An action, the controller that wants it, and whether it is to be applied or only journalled as a suggestion."""

    action: Action
    by: str
    apply: bool


def controllers() -> list[Controller]:
    """Every controller that is found by its path, with its own settings."""
    known = discover.paths("danlu.control.controllers")
    return [discover.find("danlu.control.controllers", name, Controller)() for name in sorted(known)]


class Policy:
    """Asks the controllers and holds them to their budgets.

    `off` asks guards alone; `suggest` asks all and applies only guards' actions; `auto` applies all. Suggestions count
    against a controller's budget too, so that it says the same under `suggest` as it would do under `auto`.
    """

    def __init__(self, mode: Mode, members: Iterable[Controller] | None = None) -> None:
        self.mode = mode
        self.members = controllers() if members is None else list(members)
        self._acted_at: dict[str, list[int]] = {}

    def decide(self, findings: Sequence[Finding], clock: Clock, dials: Dials) -> list[Decision]:
        """What follows from these new findings."""
        decisions: list[Decision] = []
        for member in self.members if findings else ():
            if (self.mode == "off" and not member.guard) or not self._may_act(member, clock.step):
                continue
            actions = member.decide(findings, clock, dials)
            if actions:
                self._acted_at.setdefault(member.name(), []).append(clock.step)
            apply = self.mode == "auto" or member.guard
            decisions += [Decision(action=action, by=member.name(), apply=apply) for action in actions]
        return decisions

    def state_dict(self) -> dict[str, list[int]]:
        """When each controller acted, for a checkpoint."""
        return {name: list(steps) for name, steps in self._acted_at.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[int]]) -> None:
        self._acted_at = {name: [int(step) for step in steps] for name, steps in state.items()}

    def _may_act(self, member: Controller, step: int) -> bool:
        acted = self._acted_at.get(member.name(), [])
        if len(acted) >= member.max_actions:
            return False
        return not acted or step - acted[-1] >= member.cooldown_steps
