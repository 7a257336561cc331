"""The recipe's `tune` section: which keys to search, how, for what, and for how long."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from danlu.core.config import Config
from danlu.recipe.problems import Problem, ProblemsError

_RANGE = re.compile(r"(?P<log>log)?\s*\(\s*(?P<low>[^,()]+?)\s*,\s*(?P<high>[^,()]+?)\s*\)")
_OBJECTIVE = re.compile(r"(?:(lower|higher) )?([\w./-]+)")
_FORMS = "Write log(1e-5, 1e-2), (0, 0.5) or a list such as [2, 4, 6]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """From `low` to `high`, both included: whole numbers when both are; `log`: each decade is as likely as another."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[float, ...]:
        return (self.low, self.high)

    def written(self) -> str:
        return f"{'log' if self.log else ''}({self.low!r}, {self.high!r})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values, of any kind that the key takes; `labels` are their names."""

    values: tuple[object, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(value if isinstance(value, str) else json.dumps(value) for value in self.values)

    @property
    def ends(self) -> tuple[object, ...]:
        return self.values

    def written(self) -> list[object]:
        return list(self.values)


def _read_space(given: Any) -> Any:
    """`{key: log(low, high) | (low, high) | [value, ...]}`; sections may be nested instead of dotted."""
    if not isinstance(given, Mapping):
        return given
    wrong: list[Problem] = []
    made: dict[str, Range | Choice] = {}
    for key, value in _flat(given).items():
        try:
            made[key] = _read_axis(value)
        except ValueError as error:
            wrong.append(Problem(place=(key,), problem=str(error), mend=_FORMS))
    if wrong:
        raise ProblemsError(wrong)
    return made


def _flat(given: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in given.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def _read_axis(value: object) -> Range | Choice:
    if isinstance(value, (Range, Choice)):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        choice = Choice(values=tuple(value))
        if len(set(choice.labels)) < max(2, len(choice.values)):
            raise ValueError("a list must hold at least two values, all of them different")
        return choice
    match = _RANGE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no range and no list")
    low, high = _number(match["low"]), _number(match["high"])
    if not low < high:
        raise ValueError(f"the range {value} is empty: its first end must be below its second")
    if match["log"] and low <= 0:
        raise ValueError(f"the range {value} must begin above zero, since it is logarithmic")
    return Range(low=low, high=high, log=bool(match["log"]))


def _number(text: str) -> float:
    plain = text.replace("_", "")
    try:
        return int(plain)
    except ValueError:
        pass
    try:
        number = float(plain)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no end for a range")
    return number


def _write_space(space: Mapping[str, Range | Choice]) -> dict[str, object]:
    return {key: axis.written() for key, axis in space.items()}


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Space = Annotated[
    dict[str, Range | Choice],
    BeforeValidator(_read_space),
    PlainSerializer(_write_space),
    WithJsonSchema({"type": "object", "minProperties": 1}),
]


class TuneConfig(Config):
    """A search for better values of recipe keys."""

    space: Space
    """what to search: any recipe key, with log(1e-5, 1e-2), (0, 0.5) or a list of values; whole numbers stay whole"""
    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    """how the next values are chosen; grid tries every combination of lists and whole-number ranges"""
    pruner: Literal["none", "median", "asha", "hyperband"] = "none"
    """which trials are stopped early, by their evaluations so far"""
    trials: Annotated[int, Field(ge=1)] | None = None
    """how many trials in all, failed and pruned ones included; 20 when `minutes` is not given either"""
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """start no trial after this time; those that run are let to finish"""
    objectives: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """what to make better, the task's own metric by default: metrics, parameters, tokens_per_second, seconds; several
    give a Pareto front; `higher NAME` or `lower NAME` where danlu does not know which is better"""
    workers: Annotated[int, Field(ge=1)] = 1
    """how many trials run at once on this machine"""
    storage: str | None = None
    """address of a database (sqlite:///FILE, postgresql://...) that many share; study.log in the folder by default"""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.space:
            raise ProblemsError([Problem(place=("space",), problem="has no key to search", mend=_FORMS)])
        wrong = [name for name in self.objectives if not _OBJECTIVE.fullmatch(name)]
        if wrong or len(set(self.objectives)) < len(self.objectives):
            mend = "Name each once, as in [loss, parameters] or [higher accuracy]"
            raise ProblemsError([Problem(place=("objectives",), problem="are no list of metrics", mend=mend)])
        if self.pruner != "none" and len(self.objectives) > 1:
            mend = "Give one objective, or leave the pruner out"
            raise ProblemsError([Problem(place=("pruner",), problem="can serve one objective only", mend=mend)])
        smooth = [key for key, axis in self.space.items() if isinstance(axis, Range) and not axis.whole]
        if self.sampler == "grid" and smooth:
            mend = "Write the values as a list, or take another sampler"
            raise ProblemsError(
                [Problem(place=("space", smooth[0]), problem="has no end of values, a grid needs them", mend=mend)]
            )
        return self

    @property
    def most_trials(self) -> int | None:
        """The budget in trials; None when only the time, or the grid, ends the search."""
        return 20 if self.trials is None and self.minutes is None and self.sampler != "grid" else self.trials


def read_objective(text: str) -> tuple[str | None, str]:
    """`higher accuracy` as ("higher", "accuracy"), `loss` as (None, "loss")."""
    match = _OBJECTIVE.fullmatch(text)
    assert match is not None  # the config refuses what does not match
    return match[1], match[2]
