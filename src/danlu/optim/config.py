"""OptimizerConfig and ScheduleConfig: how weights follow gradients, and how fast at which moment."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue

from danlu.core import discover
from danlu.core.clock import Clock
from danlu.core.config import Config
from danlu.core.dials import Dial
from danlu.core.errors import RequestError, nearest
from danlu.maths import schedules
from danlu.optim.base import OptimizerKind

KINDS = "danlu.optim.kinds"


class OptimizerConfig(Config):
    """An optimiser by name, with its own options beside it: `{kind: adamw, lr: 1.0e-3, betas: [0.9, 0.95]}`.

    The options are those of the kind's class; one that the kind does not have is refused.
    """

    model_config = ConfigDict(extra="allow")

    kind: str = "adamw"
    """adamw, sgd, lion, adafactor, muon, schedule_free, or one that a plug-in brings"""
    lr: Annotated[float, Field(gt=0)] | Literal["find"] = 1e-3
    """the learning rate at the peak of the schedule; `find` tries rates out before the run and takes what they say"""
    offload: bool = False
    """keep the optimiser's state in the CPU's memory; nothing changes where the weights are there anyway"""

    @model_validator(mode="before")
    @classmethod
    def _with_options(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        own = {name: given[name] for name in cls.model_fields if name in given}
        options = {name: value for name, value in given.items() if name not in own}
        kind = own.setdefault("kind", cls.model_fields["kind"].default)
        for name in ("lr", "offload"):
            own.setdefault(name, cls.model_fields[name].default)
        if not isinstance(kind, str):
            return own
        found = _kind(kind)
        for name in options:
            if name not in found.model_fields:
                mend = nearest(name, [*cls.model_fields, *found.model_fields])
                raise ValueError(f"{kind} has no option {name!r}. {mend}")
        return {**own, **found.model_validate(options).model_dump()}

    @property
    def rate(self) -> float:
        """The learning rate as a number.

        Raises:
            RequestError: it is still to be found.
        """
        if self.lr == "find":
            raise RequestError("the learning rate is still to be found", where="train.optimizer.lr", mend="Give one")
        return self.lr

    def with_rate(self, rate: float) -> Self:
        """The same with this learning rate."""
        return self.model_copy(update={"lr": rate})

    def options(self) -> OptimizerKind:
        """The kind's own config object."""
        return _kind(self.kind).model_validate(self.model_extra or {})

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name in sorted(discover.paths(KINDS)):
            for option, entry in _kind(name).model_json_schema()["properties"].items():
                note = f"{name}: {entry.get('description', '')}"
                schema["properties"].setdefault(option, {key: entry[key] for key in entry if key != "default"})
                seen = schema["properties"][option].get("description", "")
                schema["properties"][option]["description"] = note if ": " not in seen else f"{seen}; {note}"
        schema["properties"]["kind"]["enum"] = sorted(discover.paths(KINDS))
        schema["additionalProperties"] = False
        return schema


@functools.cache
def _kind(name: str) -> type[OptimizerKind]:
    try:
        return discover.find(KINDS, name, OptimizerKind)  # type: ignore[type-abstract]
    except RequestError as error:
        raise ValueError(f"there is no optimizer {name!r}. {error.mend}") from None


class ScheduleConfig(Config):
    """How the learning rate goes: `{warmup: 5%, shape: cosine, floor: 10%}`, with the shape's own options beside.

    lr(t) = lr · warm-up(t) at first, then lr · (floor + (1 - floor) · shape(p)), where p is the progress through what
    is left of the budget, whether that is counted in steps, epochs, tokens or minutes.
    """

    model_config = ConfigDict(extra="allow")

    warmup: float | int | str = 0
    """a share of the budget (5% or 0.05), or a number of steps"""
    shape: str = "cosine"
    """constant, linear, polynomial, exponential, cosine, cosine_restarts, cyclic, one_cycle, step, inverse_sqrt, wsd"""
    floor: float | str = 0.0
    """the lowest value, as a share of the peak (10% or 0.1)"""

    @model_validator(mode="before")
    @classmethod
    def _with_options(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        own = {name: given[name] for name in cls.model_fields if name in given}
        shape = own.get("shape", cls.model_fields["shape"].default)
        if not isinstance(shape, str):
            return own
        shape = own["shape"] = shape.replace("-", "_")
        if shape not in schedules.SHAPES:
            raise ValueError(f"there is no shape {shape!r}. {nearest(shape, schedules.SHAPES)}")
        known = schedules.options_of(schedules.SHAPES[shape])
        options = {name: value for name, value in given.items() if name not in cls.model_fields}
        for name, value in options.items():
            if name not in known:
                raise ValueError(
                    f"the shape {shape} has no option {name!r}. {nearest(name, [*cls.model_fields, *known])}"
                )
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} must be a number, not {value!r}")
        return {**own, **known, **options}

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if not 0.0 <= share(self.floor, "floor") <= 1.0:
            raise ValueError(f"floor must lie between 0 and 100%, not {self.floor}")
        if isinstance(self.warmup, int):
            if self.warmup < 0:
                raise ValueError(f"warmup must not be below zero, not {self.warmup}")
        elif not 0.0 <= share(self.warmup, "warmup") < 1.0:
            raise ValueError(f"warmup must be a share below 100% or a whole number of steps, not {self.warmup}")
        self._shape(0.5)
        return self

    def _shape(self, progress: float) -> float:
        return schedules.SHAPES[self.shape](progress, **(self.model_extra or {}))

    def factor(self, clock: Clock) -> float:
        """The share of the peak value at a moment of the clock: a pure function."""
        warm = self._warmup_share(clock)
        if isinstance(self.warmup, int) and clock.step < self.warmup:
            return schedules.warmup((clock.step + 1) / self.warmup)
        if clock.progress < warm:
            return schedules.warmup(clock.progress / warm)
        position = 1.0 if warm >= 1.0 else (clock.progress - warm) / (1.0 - warm)
        floor = share(self.floor, "floor")
        return floor + (1.0 - floor) * self._shape(min(1.0, max(0.0, position)))

    def _warmup_share(self, clock: Clock) -> float:
        """Which share of the budget the warm-up takes; steps are turned into a share at the pace kept so far."""
        if not isinstance(self.warmup, int):
            return share(self.warmup, "warmup")
        if clock.step <= self.warmup:
            return clock.progress if self.warmup else 0.0
        return clock.progress * self.warmup / clock.step

    def dial(self, lr: float) -> Dial:
        """The dial `learning_rate` whose peak is `lr`."""
        return Dial(name="learning_rate", schedule=lambda clock: lr * self.factor(clock))


def share(value: float | str, name: str) -> float:
    """0.05 for `5%`, `"0.05"` or 0.05.

    Raises:
        ValueError: it is neither a number nor a percentage.
    """
    if not isinstance(value, str):
        return float(value)
    text = value.strip()
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number or a percentage such as 5%, not {value!r}") from None
