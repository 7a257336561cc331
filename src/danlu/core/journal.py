"""Journal: the one append-only file of a run. Everything writes to it; reports and boards only read it."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

Kind = Literal["start", "reading", "evaluation", "finding", "action", "verdict", "checkpoint", "sample", "note", "end"]
Record = dict[str, object]


class Journal:
    """Writes one JSON object a line: `kind`, `step`, `time` (Unix seconds) and the fields given.

    A line cut short by a crash is removed when the journal is opened again. With `path=None` nothing is kept
    (other ranks than the first).
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._listeners: list[Callable[[Record], None]] = []
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _mend_tail(path)
            self._file = path.open("a", encoding="utf-8")

    def subscribe(self, listener: Callable[[Record], None]) -> None:
        """Calls `listener` with every record from now on: live displays and trackers."""
        self._listeners.append(listener)

    def write(self, kind: Kind, step: int, **fields: object) -> None:
        """Adds a record and hands it to the operating system at once; numbers that are not finite become words."""
        if self._file is None:
            return
        record: Record = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        record.update((name, _plain(value)) for name, value in fields.items())
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        if kind != "reading":
            os.fsync(self._file.fileno())
        for listener in self._listeners:
            listener(record)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_journal(path: Path) -> Iterator[Record]:
    """The records in order, as written; a last line that is cut short is left out."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def standing(records: Iterator[Record]) -> list[Record]:
    """The records that still hold: what a resumed run (a `start` with `resumed_from`) did again is left out."""
    kept: list[Record] = []
    for record in records:
        resumed_from = record.get("resumed_from")
        if record["kind"] == "start" and resumed_from is not None:
            kept = [old for old in kept if int(old["step"]) <= int(resumed_from)]  # type: ignore[call-overload]
        kept.append(record)
    return kept


def number(value: object) -> float:
    """A number of a record, `"nan"` and `"inf"` included."""
    return float(value)  # type: ignore[arg-type]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _mend_tail(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
