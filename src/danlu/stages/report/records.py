"""RunRecords: what a run folder says about its run, as a report's sections read it."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path

import yaml

from danlu.core.errors import RequestError
from danlu.core.journal import Record, number, read_journal, standing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A number over steps: `ys[i]` at step `xs[i]`; what is not finite is kept, so that a chart can show the gap."""

    xs: tuple[float, ...] = ()
    ys: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return any(map(math.isfinite, self.ys))

    @property
    def finite(self) -> tuple[float, ...]:
        return tuple(y for y in self.ys if math.isfinite(y))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecords:
    """A run folder in memory.

    `records` are those that still stand after every resume; `told` are all of them as they were written. Files that
    the run did not come to write (summary, model) are empty mappings.
    """

    folder: Path
    records: tuple[Record, ...]
    told: tuple[Record, ...]
    summary: Mapping[str, object]
    recipe_text: str
    recipe: Mapping[str, object]
    model_config: Mapping[str, object]

    def of(self, *kinds: str) -> list[Record]:
        """The standing records of these kinds, in order."""
        return [record for record in self.records if record["kind"] in kinds]

    @functools.cached_property
    def start(self) -> Mapping[str, object]:
        """The newest start record."""
        starts = self.of("start")
        return starts[-1] if starts else {}

    @functools.cached_property
    def end(self) -> Mapping[str, object]:
        """The end record of the newest start; empty when the run goes on, or was killed."""
        last = max((at for at, record in enumerate(self.told) if record["kind"] == "start"), default=0)
        ends = [record for record in self.told[last:] if record["kind"] == "end"]
        return ends[-1] if ends else {}

    @property
    def status(self) -> str:
        """finished, stopped, failed, or unfinished."""
        return str(self.end.get("status", "unfinished"))

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.start.get("name") or self.folder.name)

    @property
    def last_step(self) -> int:
        return max((int(number(record["step"])) for record in self.records), default=0)

    @property
    def seconds(self) -> float:
        """Wall time of the training, summed over resumes."""
        known = [number(record["seconds"]) for record in (*self.of("reading"), self.end) if "seconds" in record]
        return max(known, default=0.0)

    def newest(self, name: str, default: float = 0.0) -> float:
        """The last `tokens`, `examples`, `epochs`, ... that a reading gives."""
        found = [number(record[name]) for record in self.of("reading")[-1:] if name in record]
        return found[0] if found else default

    @functools.cached_property
    def reading_names(self) -> list[str]:
        """The names of all probes' numbers, in the order of their first appearance."""
        return list(dict.fromkeys(name for record in self.of("reading") for name in part(record, "values")))

    @functools.cached_property
    def metric_names(self) -> list[str]:
        """The names of all evaluated metrics, the judged one first."""
        names = dict.fromkeys(name for record in self.of("evaluation") for name in part(record, "metrics"))
        return sorted(names, key=lambda name: name != self.judged)

    def reading(self, name: str) -> Series:
        """One probe's number over steps."""
        return _series(self.of("reading"), "values", name)

    def metric(self, name: str) -> Series:
        """One metric of the validation data over steps."""
        return _series(self.of("evaluation"), "metrics", name)

    @property
    def judged(self) -> str:
        """The metric that says which evaluation is best; empty when nothing was evaluated."""
        evaluations = self.of("evaluation")
        return str(evaluations[-1].get("judged", "")) if evaluations else ""

    @functools.cached_property
    def best(self) -> Mapping[str, object]:
        """The best evaluation's record by the judged metric; empty when there is none that is finite."""
        judged = [
            (number(part(record, "metrics")[self.judged]), record)
            for record in self.of("evaluation")
            if self.judged in part(record, "metrics")
        ]
        finite = [pair for pair in judged if math.isfinite(pair[0])]
        if not finite:
            return {}
        choose = max if finite[-1][1].get("better") == "higher" else min
        return choose(finite, key=lambda pair: pair[0])[1]


def load_run(folder: Path) -> RunRecords:
    """Reads a run folder.

    Raises:
        RequestError: the folder is not a run's, or its journal has a line that is no record.
    """
    journal = folder / "journal.jsonl"
    if not journal.is_file():
        raise RequestError(
            "there is no journal.jsonl here", where=str(folder), mend="Give the folder of a run, such as runs/NAME/1"
        )
    try:
        told = list(read_journal(journal))
    except ValueError as error:
        raise RequestError(f"a line is no journal record ({error})", where=str(journal)) from error
    text = _text(folder / "recipe.yaml")
    return RunRecords(
        folder=folder,
        records=tuple(standing(iter(told))),
        told=tuple(told),
        summary=mapping(json.loads(_text(folder / "summary.json") or "{}")),
        recipe_text=text,
        recipe=mapping(yaml.safe_load(text or "{}")),
        model_config=mapping(json.loads(_text(folder / "model" / "config.json") or "{}")),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def mapping(value: object) -> Mapping[str, object]:
    """The value when it is a mapping, else an empty one: files may be older or newer than this code."""
    return value if isinstance(value, Mapping) else {}


def part(record: Mapping[str, object], field: str) -> Mapping[str, object]:
    """A record's field that is a mapping itself, such as the `values` of a reading."""
    return mapping(record.get(field))


def _series(records: list[Record], field: str, name: str) -> Series:
    found = [(record["step"], part(record, field)[name]) for record in records if name in part(record, field)]
    return Series(xs=tuple(number(step) for step, _ in found), ys=tuple(number(value) for _, value in found))
