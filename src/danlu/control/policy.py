"""Policy: what controllers may do: nothing, be told, or act; how often; and whether it helped."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from danlu.control.base import Controller, Past, Situation
from danlu.core import discover
from danlu.core.action import Action, Branch, Expectation, QuarantineData, SetDial, action_record, read_action
from danlu.core.clock import Clock
from danlu.core.finding import Finding

Mode = Literal["off", "suggest", "auto"]
LEVEL = 3
"""values whose median is the level of a reading"""
MOST_ACTIONS = 16
"""what all controllers together may do in a run"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """An action, the controller that wants it, and whether it is to be applied or only journalled as a suggestion.

    `reverts` is the step of the action that it takes back.
    """

    action: Action
    by: str
    apply: bool
    reverts: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of an action of step `about`: kept, or reverted, with the level of the reading then and now."""

    about: int
    by: str
    action: str
    kept: bool
    reading: str
    then: float
    now: float
    sentence: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pending:
    """An action that waits for its verdict; `before` is what stood on its dial."""

    action: Action
    by: str
    step: int
    then: float
    before: SetDial | None


def controllers() -> list[Controller]:
    """Every controller that is found by its path, with its own settings, in the order in which they are asked."""
    known = discover.paths("danlu.control.controllers")
    made = [discover.find("danlu.control.controllers", name, Controller)() for name in sorted(known)]
    return sorted(made, key=lambda member: (member.order, member.name()))


class Policy:
    """Asks the controllers, holds them to their budgets, and judges what they did.

    `off` asks guards alone; `suggest` asks all and applies only guards' actions; `auto` applies all. Suggestions count
    against a controller's budget too. Everything follows from the readings, evaluations and forks that it is told of,
    so that a journal gives the same decisions again.
    """

    def __init__(self, mode: Mode, members: Iterable[Controller] | None = None) -> None:
        self.mode = mode
        self.members = controllers() if members is None else sorted(members, key=lambda member: member.order)
        self._acted_at: dict[str, list[int]] = {}
        self._pending: list[_Pending] = []
        self._turned: dict[str, SetDial] = {}

    def answer(
        self, findings: Sequence[Finding], clock: Clock, dials: Mapping[str, float], past: Past
    ) -> list[Decision | Verdict]:
        """What follows from the findings that stand now, and what can be said of earlier actions by now."""
        said = self._judge(clock, past)
        standing = [finding for finding in findings if finding.severity != "note"]
        for member in self.members if standing else ():
            mine = [finding for finding in standing if finding.name in member.answers]
            if not mine or (self.mode == "off" and not member.guard) or not self._may_act(member, clock.step):
                continue
            acted = self._acted_at.get(member.name(), [])
            now = Situation(
                findings=mine, clock=clock, dials=dials, turned=dict(self._turned), past=past, acted=tuple(acted)
            )
            actions = member.decide(now)
            if not actions:
                continue
            self._acted_at.setdefault(member.name(), []).append(clock.step)
            apply = self.mode == "auto" or member.guard
            if apply:
                standing = [finding for finding in standing if finding not in mine]
            for action in actions:
                said += self._note(action, member.name(), clock.step, past) if apply else []
                said.append(Decision(action=action, by=member.name(), apply=apply))
        return said

    def settle(self, branch: Branch, choice: int | None) -> None:
        """Takes in how a fork ended: which of its tries the run goes on with."""
        for action in branch.tries[choice] if choice is not None else ():
            self._turned[action.dial] = action

    def acted(self, name: str) -> bool:
        """Whether a controller has done anything so far."""
        return bool(self._acted_at.get(name))

    def member(self, name: str) -> Controller:
        return next(member for member in self.members if member.name() == name)

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint."""
        pending = [
            {
                "action": action_record(wait.action),
                "by": wait.by,
                "step": wait.step,
                "then": wait.then,
                "before": wait.before and action_record(wait.before),
            }
            for wait in self._pending
        ]
        return {
            "acted_at": {name: list(steps) for name, steps in self._acted_at.items()},
            "pending": pending,
            "turned": {dial: action_record(action) for dial, action in self._turned.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._acted_at = {name: [int(step) for step in steps] for name, steps in state["acted_at"].items()}
        self._turned = {dial: _dial_action(record) for dial, record in state["turned"].items()}
        self._pending = [
            _Pending(
                action=read_action(entry["action"]),
                by=entry["by"],
                step=int(entry["step"]),
                then=float(entry["then"]),
                before=_dial_action(entry["before"]) if entry["before"] else None,
            )
            for entry in state["pending"]
        ]

    def _may_act(self, member: Controller, step: int) -> bool:
        acted = self._acted_at.get(member.name(), [])
        if len(acted) >= member.max_actions or (
            sum(map(len, self._acted_at.values())) >= MOST_ACTIONS and not member.guard
        ):
            return False
        if not member.urgent and any(wait.by == member.name() for wait in self._pending):
            return False
        return not acted or step - acted[-1] >= max(1, member.cooldown_steps)

    def _note(self, action: Action, by: str, step: int, past: Past) -> list[Verdict]:
        """Remembers an action that is applied; one that still waited on the same dial is closed."""
        closed: list[Verdict] = []
        before = self._turned.get(action.dial) if isinstance(action, SetDial) else None
        if isinstance(action, SetDial):
            for wait in [wait for wait in self._pending if getattr(wait.action, "dial", None) == action.dial]:
                self._pending.remove(wait)
                closed.append(self._verdict(wait, past, kept=True, sentence="It was not enough: the dial is turned on"))
                before = wait.before
            self._turned[action.dial] = action
        if action.expects is not None:
            then = _level(past, action.expects.reading)
            self._pending.append(_Pending(action=action, by=by, step=step, then=then, before=before))
        return closed

    def _judge(self, clock: Clock, past: Past) -> list[Decision | Verdict]:
        said: list[Decision | Verdict] = []
        for wait in list(self._pending):
            expects = wait.action.expects
            assert expects is not None
            if (
                clock.step < wait.step + expects.after
                or _newest_step(past, expects.reading) < wait.step + expects.after
            ):
                continue
            self._pending.remove(wait)
            helped = expects.met(wait.then, _level(past, expects.reading))
            said.append(self._verdict(wait, past, kept=helped, sentence=""))
            if not helped:
                said += self._revert(wait)
        return said

    def _verdict(self, wait: _Pending, past: Past, *, kept: bool, sentence: str) -> Verdict:
        expects = wait.action.expects
        assert expects is not None
        now = _level(past, expects.reading)
        told = sentence or f"{expects.reading} went from {wait.then:.4g} to {now:.4g}; {_asked(expects)} was expected"
        name = type(wait.action).__name__
        return Verdict(
            about=wait.step,
            by=wait.by,
            action=name,
            kept=kept,
            reading=expects.reading,
            then=wait.then,
            now=now,
            sentence=told,
        )

    def _revert(self, wait: _Pending) -> list[Decision]:
        """What takes an action back; what cannot be taken back stays."""
        back: Action
        if isinstance(wait.action, SetDial):
            dial, before = wait.action.dial, wait.before
            if before is None:
                self._turned.pop(dial, None)
                back = SetDial(dial=dial, number=None, because="it did not help")
            else:
                self._turned[dial] = before
                back = before.model_copy(
                    update={"because": "it did not help", "over": 0, "begin": None, "expects": None}
                )
        elif isinstance(wait.action, QuarantineData) and wait.action.example_ids:
            back = QuarantineData(example_ids=wait.action.example_ids, back=True, because="it did not help")
        else:
            return []
        return [Decision(action=back, by=wait.by, apply=True, reverts=wait.step)]


def _dial_action(record: Mapping[str, object]) -> SetDial:
    action = read_action(record)
    assert isinstance(action, SetDial)
    return action


def _asked(expects: Expectation) -> str:
    if expects.by < 0:
        return f"no more than {-expects.by:.0%} {'up' if expects.direction == 'down' else 'down'}"
    return f"{expects.by:.0%} {expects.direction}" if expects.by else f"to go {expects.direction}"


def _level(past: Past, reading: str) -> float:
    """The median of the newest few values; of a validation metric the newest value."""
    if reading.startswith("valid/"):
        name = reading.removeprefix("valid/")
        return next((ev.metrics[name] for ev in reversed(past.evaluations) if name in ev.metrics), math.nan)
    values = past.series(reading, LEVEL)
    return statistics.median(values) if values else math.nan


def _newest_step(past: Past, reading: str) -> int:
    if reading.startswith("valid/"):
        return past.evaluations[-1].step if past.evaluations else -1
    return max(past.steps(reading, 1), default=-1)
