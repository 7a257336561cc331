"""Clock: how far a run has come, and the budget it is measured against."""

import dataclasses
import math
from typing import Self

from danlu.core.config import Config


class Budget(Config):
    """How long to train: whichever of the given limits comes first. At least one must be given."""

    steps: int | None = None
    """optimiser steps"""
    epochs: float | None = None
    """passes over the training data"""
    tokens: float | None = None
    """tokens (padding not counted)"""
    minutes: float | None = None
    """wall time of the training loop, evaluations included; the schedule ends with it"""

    def model_post_init(self, _context: object) -> None:
        given = [value for value in (self.steps, self.epochs, self.tokens, self.minutes) if value is not None]
        if not given:
            raise ValueError("give at least one of steps, epochs, tokens, minutes")
        if not all(0 < value < math.inf for value in given):
            raise ValueError("steps, epochs, tokens and minutes must be above zero")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock:
    """A moment of a run. `step` counts finished optimiser steps; `seconds` is wall time, summed over resumes."""

    budget: Budget
    step: int = 0
    examples: int = 0
    tokens: int = 0
    epochs: float = 0.0
    seconds: float = 0.0

    @property
    def progress(self) -> float:
        """The share of the budget that is used, in [0, 1]: the largest over the limits that were given."""
        pairs = (
            (self.step, self.budget.steps),
            (self.epochs, self.budget.epochs),
            (self.tokens, self.budget.tokens),
            (self.seconds / 60, self.budget.minutes),
        )
        return min(1.0, max(used / limit for used, limit in pairs if limit))

    @property
    def done(self) -> bool:
        """True when a limit is reached (epochs are compared with a tolerance for summed fractions)."""
        return self.progress >= 1.0 - 1e-9

    def tick(self, *, examples: int, tokens: int, epochs: float, seconds: float) -> Self:
        """The clock after one more step: `epochs` and `seconds` are new totals, `examples` and `tokens` are added."""
        return dataclasses.replace(
            self,
            step=self.step + 1,
            examples=self.examples + examples,
            tokens=self.tokens + tokens,
            epochs=epochs,
            seconds=seconds,
        )

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps; the budget comes from the recipe, so that a resumed run may be given more."""
        return {name: getattr(self, name) for name in ("step", "examples", "tokens", "epochs", "seconds")}

    def load(self, state: dict[str, float]) -> Self:
        """This clock's budget at the moment that `state` holds."""
        return dataclasses.replace(
            self,
            step=int(state["step"]),
            examples=int(state["examples"]),
            tokens=int(state["tokens"]),
            epochs=float(state["epochs"]),
            seconds=float(state["seconds"]),
        )


class Every(Config):
    """An interval of the clock, such as `{steps: 50}`. With several units given, the first that is due counts."""

    steps: int | None = None
    """optimiser steps"""
    epochs: float | None = None
    """passes over the training data"""
    tokens: float | None = None
    """tokens (padding not counted)"""
    seconds: float | None = None
    """wall time of the training loop"""

    def model_post_init(self, _context: object) -> None:
        given = [value for value in (self.steps, self.epochs, self.tokens, self.seconds) if value is not None]
        if not given or not all(0 < value < math.inf for value in given):
            raise ValueError("give one of steps, epochs, tokens, seconds, above zero")

    def due(self, before: Clock, after: Clock) -> bool:
        """True when a multiple of the interval lies in (before, after]."""
        spans = (
            (before.step, after.step, self.steps),
            (before.epochs, after.epochs, self.epochs),
            (before.tokens, after.tokens, self.tokens),
            (before.seconds, after.seconds, self.seconds),
        )
        return any(every and _crossed(start, end, every) for start, end, every in spans)


def _crossed(start: float, end: float, every: float) -> bool:
    return math.floor(end / every + 1e-9) > math.floor(start / every + 1e-9)
