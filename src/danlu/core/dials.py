"""Dial: a number that may change during a run. Dials: all of a run's dials and what overrides them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from danlu.core.action import SetDial
from danlu.core.clock import Clock
from danlu.core.errors import RequestError, nearest

Schedule = Callable[[Clock], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dial:
    """A named number as a pure function of the clock, and the range that an override must stay within."""

    name: str
    schedule: Schedule
    low: float = 0.0
    high: float = float("inf")
    unit: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Override:
    """What a controller put in a dial's way: `set` replaces the schedule's value, `scale` multiplies it.

    It glides from `begin` to `number` over the `over` steps after step `since`.
    """

    kind: Literal["set", "scale"]
    number: float
    begin: float = 0.0
    since: int = 0
    over: int = 0

    def at(self, step: int) -> float:
        """The number or factor at a step."""
        share = min(1.0, (step - self.since) / self.over) if self.over else 1.0
        return self.number if share == 1.0 else self.begin + (self.number - self.begin) * share


def constant(name: str, value: float, *, low: float = 0.0, high: float = float("inf"), unit: str = "") -> Dial:
    """A dial that stays at `value` unless somebody overrides it."""
    return Dial(name=name, schedule=lambda _clock: value, low=low, high=high, unit=unit)


class Dials:
    """Reads dials at a moment of the clock; keeps the overrides, which are part of a checkpoint."""

    def __init__(self, dials: Iterable[Dial]) -> None:
        self._dials: dict[str, Dial] = {}
        self._overrides: dict[str, Override] = {}
        for dial in dials:
            if dial.name in self._dials:
                raise RequestError("two parts of the recipe turn the same dial", where=dial.name, mend="Remove one")
            self._dials[dial.name] = dial

    @property
    def names(self) -> list[str]:
        return list(self._dials)

    def __contains__(self, name: str) -> bool:
        return name in self._dials

    def value(self, name: str, clock: Clock, default: float | None = None) -> float:
        """The dial's number now. A dial that nobody declared gives `default`, or is an error if there is none."""
        dial = self._dials.get(name)
        if dial is None:
            if default is not None:
                return default
            raise RequestError(f"there is no dial {name!r}", mend=nearest(name, self._dials))
        number = dial.schedule(clock)
        override = self._overrides.get(name)
        if override is None:
            return number
        turned = override.at(clock.step) * (1.0 if override.kind == "set" else number)
        return min(max(turned, dial.low), dial.high)

    def override(self, name: str, override: Override | None) -> Override | None:
        """Puts an override on a dial (None takes it away) and returns what was there before, for a later revert."""
        if name not in self._dials:
            raise RequestError(f"there is no dial {name!r}", mend=nearest(name, self._dials))
        previous = self._overrides.pop(name, None)
        if override is not None:
            self._overrides[name] = override
        return previous

    def override_on(self, name: str) -> Override | None:
        """What stands in a dial's way now."""
        return self._overrides.get(name)

    def turn(self, action: SetDial, clock: Clock) -> None:
        """Turns a dial as an action says, from now on."""
        if action.number is None:
            self.override(action.dial, None)
            return
        begin, before = action.begin, self._overrides.get(action.dial)
        if begin is None and action.kind == "set":
            begin = self.value(action.dial, clock)
        elif begin is None:
            begin = before.at(clock.step) if before is not None and before.kind == "scale" else 1.0
        new = Override(kind=action.kind, number=action.number, begin=begin, since=clock.step, over=action.over)
        self.override(action.dial, new)

    def read_all(self, clock: Clock) -> Mapping[str, float]:
        return {name: self.value(name, clock) for name in self._dials}

    def state_dict(self) -> dict[str, dict[str, float | str]]:
        return {name: dataclasses.asdict(override) for name, override in self._overrides.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float | str]]) -> None:
        self._overrides = {
            name: Override(**entry)  # type: ignore[arg-type]
            for name, entry in state.items()
            if name in self._dials
        }
