"""Diagnosis: a pure function from a run's history to findings. History: what a run has read of itself so far."""

import bisect
import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Self

from danlu.core import discover
from danlu.core.action import Action
from danlu.core.config import Config
from danlu.core.finding import Evaluation, Finding, Readings
from danlu.core.journal import Record, number
from danlu.maths.statistics import MAD_TO_SIGMA

Severity = Literal["note", "warning", "serious"]


class History:
    """The readings and evaluations of a run, oldest first; each reading kept as a series by name.

    `examples` are the newest ids noted under each name.
    """

    def __init__(self) -> None:
        self.evaluations: list[Evaluation] = []
        self.examples: dict[str, tuple[int, ...]] = {}
        self._steps: dict[str, list[int]] = {}
        self._values: dict[str, list[float]] = {}

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """The history that a journal tells, for resuming and replaying."""
        history = cls()
        for record in records:
            history.hear(record)
        return history

    def hear(self, record: Record) -> None:
        """Takes in a journal record; kinds other than `reading` and `evaluation` are passed over."""
        if record["kind"] in ("reading", "evaluation"):
            news = told(record)
            self.add(news) if isinstance(news, Readings) else self.add_evaluation(news)

    def add(self, readings: Readings) -> None:
        for name, value in readings.values.items():
            self._steps.setdefault(name, []).append(readings.step)
            self._values.setdefault(name, []).append(float(value))
        self.examples.update(readings.examples)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def forget_after(self, step: int) -> None:
        """Drops the readings after a step to which the run has gone back; evaluations stay, and what guessing costs."""
        for name, steps in self._steps.items():
            if name == "chance_loss":  # read once, and as true of new weights as of old ones
                continue
            kept = bisect.bisect_right(steps, step)
            del steps[kept:], self._values[name][kept:]

    @property
    def names(self) -> list[str]:
        """The names of all series."""
        return list(self._values)

    def series(self, name: str, last: int | None = None) -> Sequence[float]:
        """The values of a series, or its `last` few; empty when nothing was read."""
        values = self._values.get(name, [])
        return values[:] if last is None else values[max(0, len(values) - last) :]

    def steps(self, name: str, last: int | None = None) -> Sequence[int]:
        """The steps at which those values were read."""
        steps = self._steps.get(name, [])
        return steps[:] if last is None else steps[max(0, len(steps) - last) :]

    def parts(self, name: str, *, last: int = 1) -> dict[str, Sequence[float]]:
        """PART → the `last` values of `NAME/PART`, for parts that were read when any of them was read last."""
        prefix = f"{name}/"
        found = {key.removeprefix(prefix): key for key in self._values if key.startswith(prefix)}
        found = {part: key for part, key in found.items() if self._steps[key]}
        newest = max((self._steps[key][-1] for key in found.values()), default=0)
        return {part: self.series(key, last) for part, key in found.items() if self._steps[key][-1] == newest}

    def until(self, name: str, step: int, last: int) -> Sequence[float]:
        """The `last` values read at or before a step."""
        known = [value for at, value in zip(self.steps(name), self.series(name), strict=True) if at <= step]
        return known[max(0, len(known) - last) :]


class Diagnosis(Config):
    """The parent of all diagnoses: one file below `monitor/findings`. Its fields are its thresholds.

    `diagnose` is a pure function: the same history gives the same findings.
    """

    @classmethod
    def name(cls) -> str:
        """Its file's name, which its findings carry."""
        return cls.__module__.rpartition(".")[2]

    def diagnose(self, history: History) -> list[Finding]:
        """What is wrong now, judged at the newest reading or evaluation; mostly nothing."""
        raise NotImplementedError

    def found(
        self,
        step: int,
        sentence: str,
        evidence: Mapping[str, float],
        *,
        severity: Severity = "warning",
        suggests: Sequence[Action] = (),
        example_ids: Sequence[int] = (),
    ) -> list[Finding]:
        """The one finding of this diagnosis."""
        return [
            Finding(
                name=self.name(),
                step=step,
                severity=severity,
                sentence=sentence,
                evidence=dict(evidence),
                suggests=tuple(suggests),
                example_ids=tuple(example_ids),
            )
        ]


def all_diagnoses() -> list[Diagnosis]:
    """Every diagnosis that is found by its path, with its own thresholds."""
    known = discover.paths("danlu.monitor.findings")
    return [discover.find("danlu.monitor.findings", name, Diagnosis)() for name in sorted(known)]


def noise_of(values: Sequence[float]) -> float:
    """The size of a series' jitter around its trend: 1.4826 · MAD of its first differences / √2 (0 for fewer than 3).

    Differences leave the trend out, the median leaves out single jumps (von Neumann 1941; Rousseeuw & Croux 1993).
    """
    steps = [after - before for before, after in itertools.pairwise(values)]
    steps = [step for step in steps if math.isfinite(step)]
    if len(steps) < 2:
        return 0.0
    middle = statistics.median(steps)
    return MAD_TO_SIGMA * statistics.median(abs(step - middle) for step in steps) / math.sqrt(2)


def told(record: Record) -> Readings | Evaluation:
    """What a journal's `reading` or `evaluation` says."""
    step = int(number(record["step"]))
    if record["kind"] == "reading":
        readings = Readings(step=step, values=_numbers(record["values"]), examples=_ids(record.get("noted")))
        return with_dials(readings, _numbers(record.get("dials", {})))
    better: Literal["higher", "lower"] = "higher" if record["better"] == "higher" else "lower"
    return Evaluation(step=step, metrics=_numbers(record["metrics"]), judged=str(record["judged"]), better=better)


def with_dials(readings: Readings, dials: Mapping[str, float]) -> Readings:
    """A reading as diagnoses see it: what the dials show is in it as `dial/NAME`."""
    shown = {f"dial/{name}": value for name, value in dials.items()}
    return dataclasses.replace(readings, values={**readings.values, **shown})


def _ids(noted: object) -> dict[str, tuple[int, ...]]:
    noted = noted if isinstance(noted, Mapping) else {}
    return {str(name): tuple(int(at) for at in ids) for name, ids in noted.items()}


def _numbers(values: object) -> dict[str, float]:
    assert isinstance(values, Mapping)
    return {str(name): number(value) for name, value in values.items()}


def level(history: History, name: str, last: int = 3) -> float:
    """The median of the `last` finite values of a series; NaN where there are none."""
    values = [value for value in history.series(name, last) if math.isfinite(value)]
    return statistics.median(values) if values else math.nan


def looks(history: History, name: str) -> list[tuple[int, float]]:
    """(step, median over the layers) of `NAME/LAYER`, for each step at which it was read."""
    at: dict[int, list[float]] = {}
    for key in history.names:
        if key.startswith(f"{name}/"):
            for step, value in zip(history.steps(key), history.series(key), strict=True):
                at.setdefault(step, []).append(value)
    return [(step, statistics.median(values)) for step, values in sorted(at.items())]


def warmed_up(history: History) -> bool:
    """Whether the learning rate has stopped rising, and has not yet fallen below half its peak."""
    rates = history.series("learning_rate")
    return len(rates) > 2 and rates[-1] <= rates[-2] * 1.0001 and rates[-1] >= 0.5 * max(rates)


HEAVY = {"dropout": 0.5, "weight_decay": 1.0}
"""dial → what is far beyond the usual"""


def heavy(history: History, readings: int) -> dict[str, float]:
    """Dial → its largest number in the last readings, of regularisers that stood far above the usual then."""
    most = {dial: max(history.series(f"dial/{dial}", readings), default=0.0) for dial in HEAVY}
    return {dial: number for dial, number in most.items() if number > HEAVY[dial]}


def blocks(layers: Iterable[str]) -> list[list[str]]:
    """Layers that are numbered (`layers.0`, `layers.1`, ...), those of one prefix together, in the order of numbers."""
    stacks: dict[str, list[tuple[int, str]]] = {}
    for layer in layers:
        prefix, _, number_ = layer.rpartition(".")
        if number_.isdigit():
            stacks.setdefault(prefix, []).append((int(number_), layer))
    return [[layer for _, layer in sorted(stack)] for stack in stacks.values()]
