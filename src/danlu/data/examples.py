"""Examples: a set of examples that lies in memory-mapped files, and the files' layout.

A folder holds `meta.json`, and for each field `NAME.values` (all values in a row, one example after the other) and,
for fields whose first axis varies, `NAME.ends` (int64: where each example's values end). The first axis may vary from
example to example; the other axes may not.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from danlu.core.errors import RequestError
from danlu.data.rows import Example

VERSION = 1


class ExampleSet(Protocol):
    """What a sampler and a loader need: `lengths` is the cost of each example (tokens, pixels, ...)."""

    @property
    def lengths(self) -> np.ndarray: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, at: int) -> Example: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldLayout:
    """How a field is stored: `scalar` has one value an example, otherwise the first axis varies; `inner` the others."""

    dtype: str
    scalar: bool
    inner: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> "FieldLayout":
        return cls(dtype=array.dtype.str, scalar=array.ndim == 0, inner=tuple(array.shape[1:]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """Rows that need telling: how many, and the first 1,000 of them as {file, row, field, problem}."""

    count: int = 0
    rows: tuple[Mapping[str, object], ...] = ()

    LIMIT = 1000

    def plus(self, other: "Listed") -> "Listed":
        return Listed(count=self.count + other.count, rows=(self.rows + other.rows)[: self.LIMIT])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """What `meta.json` holds."""

    fingerprint: str
    num_examples: int
    fields: Mapping[str, FieldLayout]
    skipped: Listed
    truncated: Listed
    files: tuple[tuple[str, int], ...] = ()
    """the names of the files in their order, and how many examples each gave; empty when written by an older version"""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"version": VERSION, **dataclasses.asdict(self)}), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Meta":
        """Raises ValueError, KeyError, TypeError or OSError when the file is not as it should be."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("version") != VERSION:
            raise ValueError("written by another version")
        raw["fields"] = {
            name: FieldLayout(**{**entry, "inner": tuple(entry["inner"])}) for name, entry in raw["fields"].items()
        }
        raw["files"] = tuple((str(name), int(count)) for name, count in raw.get("files", ()))
        for name in ("skipped", "truncated"):
            raw[name] = Listed(count=raw[name]["count"], rows=tuple(raw[name]["rows"]))
        return cls(**raw)


class Examples:
    """Examples in a folder, memory-mapped: only what is looked at is read.

    `lengths` are those of the first field that varies (tokens of a text), or ones when none does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = Meta.read(folder / "meta.json")
        self.sources: Mapping[str, int] = {}
        """file name -> place of its source in a list of sources"""
        self._values = {name: _mapped(folder / f"{name}.values", layout) for name, layout in self.meta.fields.items()}
        self._ends = {
            name: _mapped(folder / f"{name}.ends", FieldLayout(dtype="<i8", scalar=True, inner=()))
            for name, layout in self.meta.fields.items()
            if not layout.scalar
        }
        self._check()

    @property
    def fingerprint(self) -> str:
        """Names the content: equal fingerprints, equal examples."""
        return self.meta.fingerprint

    @property
    def skipped(self) -> Listed:
        """Rows that could not be used."""
        return self.meta.skipped

    @property
    def truncated(self) -> Listed:
        """Rows that lost a part for want of context."""
        return self.meta.truncated

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(len,) int64"""
        return self.lengths_of(next(iter(self._ends))) if self._ends else np.ones(len(self), dtype=np.int64)

    def lengths_of(self, name: str) -> np.ndarray:
        """(len,) int64: the lengths of a field whose first axis varies."""
        return np.diff(self._ends[name], prepend=0)

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    def num_values(self, name: str) -> int:
        """How many values a field has, over all examples."""
        return len(self._values[name])

    def __len__(self) -> int:
        return self.meta.num_examples

    def __getitem__(self, at: int) -> Example:
        if not -len(self) <= at < len(self):
            raise IndexError(f"there is no example {at} among {len(self)}")
        at %= len(self)
        return {name: self.part(name, at) for name in self.meta.fields}

    def part(self, name: str, at: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """A field of one example, from `start` to `stop` along its first axis, as a read-only view."""
        if self.meta.fields[name].scalar:
            return self._values[name][at]
        ends = self._ends[name]
        begin = int(ends[at - 1]) if at else 0
        end = int(ends[at]) if stop is None else min(begin + stop, int(ends[at]))
        return self._values[name][begin + start : end]

    def column(self, name: str) -> np.ndarray:
        """All values of a scalar field, (len,); of `source` the place in the list of sources that each comes from.

        Raises:
            KeyError: there is no such field, or the sources are not known.
        """
        if name == "source" and not self.has(name):
            return np.concatenate([np.full(count, self.sources[file]) for file, count in self.meta.files or [("", 0)]])
        return self._values[name]

    def has(self, name: str) -> bool:
        return name in self.meta.fields

    def _check(self) -> None:
        for name, layout in self.meta.fields.items():
            num_values = self.meta.num_examples if layout.scalar else int(self._ends[name][-1])
            if len(self._values[name]) != num_values or (
                not layout.scalar and len(self._ends[name]) != self.meta.num_examples
            ):
                raise ValueError(f"{name} is cut short")


def column_of(examples: ExampleSet, name: str) -> np.ndarray:
    """(N,) whole numbers, one for each example: its class by `label`, the place of its source by `source`.

    Raises:
        RequestError: the examples have no such number.
    """
    told = getattr(examples, "column", None)
    try:
        found = told(name) if told else np.stack([examples[at][name] for at in range(len(examples))])
    except KeyError:
        found = np.zeros(0)
    if found.shape != (len(examples),) or found.dtype.kind not in "iu":
        mend = {"label": "It needs one class a row", "source": "Give data.train as a list of files, folders or names"}
        raise RequestError(f"the training examples do not tell their {name}", where="techniques", mend=mend.get(name))
    return found.astype(np.int64)


def open_examples(folder: Path) -> Examples | None:
    """The examples in a folder; None when there are none, or they are damaged or of another version."""
    try:
        return Examples(folder)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _mapped(path: Path, layout: FieldLayout) -> np.ndarray:
    dtype = np.dtype(layout.dtype)
    width = int(np.prod(layout.inner, dtype=np.int64)) * dtype.itemsize
    num_values, rest = divmod(path.stat().st_size, width)
    if rest:
        raise ValueError(f"{path} is cut short")
    shape = (num_values, *layout.inner)
    return np.zeros(shape, dtype) if num_values == 0 else np.asarray(np.memmap(path, dtype, "r", shape=shape))


class Writer:
    """Writes examples in order to a folder. Memory stays flat; a write that fails raises OSError."""

    _BUFFER_BYTES = 1 << 20

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layouts: dict[str, FieldLayout] = {}
        self.num_examples = 0
        self._shapes: dict[str, tuple[object, ...]] = {}
        self._totals: dict[str, int] = {}
        self._pending: dict[str, list[np.ndarray]] = {}
        self._pending_ends: dict[str, list[int]] = {}
        self._pending_bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, example: Example, *, joined: bool = False) -> None:
        """Adds an example; `joined` lets it continue the one before: scalars add up, the rest is appended."""
        self._check(example)
        joined = joined and self.num_examples > 0
        for name, array in example.items():
            if self.layouts[name].scalar:
                self._add_scalar(name, array, joined)
            else:
                self._totals[name] += len(array)
                self._pending[name].append(array)
                ends = self._pending_ends[name]
                if joined:
                    ends[-1] = self._totals[name]
                else:
                    ends.append(self._totals[name])
                self._pending_bytes += array.nbytes
        self.num_examples += not joined
        self._pending_bytes += 64
        if self._pending_bytes > self._BUFFER_BYTES:
            self.flush(keep=1)

    def flush(self, keep: int = 0) -> None:
        """Hands what is pending to the operating system, all but the last `keep` examples' ends and scalars."""
        for name, layout in self.layouts.items():
            pending = self._pending[name]
            cut = len(pending) - (keep if layout.scalar else 0)
            if cut > 0:
                self._append(
                    f"{name}.values", b"".join(np.ascontiguousarray(entry).tobytes() for entry in pending[:cut])
                )
                del pending[:cut]
            if not layout.scalar:
                ends = self._pending_ends[name]
                cut = len(ends) - keep
                if cut > 0:
                    self._append(f"{name}.ends", np.array(ends[:cut], dtype="<i8").tobytes())
                    del ends[:cut]
        self._pending_bytes = 0

    def close(self) -> None:
        """Writes what is left."""
        self.flush()

    def _add_scalar(self, name: str, array: np.ndarray, joined: bool) -> None:
        if joined:
            self._pending[name][-1] = np.asarray(self._pending[name][-1] + array, dtype=self.layouts[name].dtype)
        else:
            self._pending[name].append(array)

    def _check(self, example: Example) -> None:
        shapes = {name: (array.dtype, array.ndim, array.shape[1:]) for name, array in example.items()}
        if not self.layouts:
            self._shapes = dict(shapes)
            for name, array in example.items():
                self.layouts[name] = FieldLayout.of(array)
                self._totals[name], self._pending[name], self._pending_ends[name] = 0, [], []
        if shapes != self._shapes:
            raise TypeError(f"examples of one source must agree in fields, types and shapes: {shapes}, {self._shapes}")

    def _append(self, name: str, content: bytes) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(content)


def concatenate(shards: Sequence[tuple[Path, Mapping[str, FieldLayout], bool]], folder: Path) -> None:
    """Appends the files of each shard (folder, layouts, joined) to those in `folder`, and removes what is copied.

    A shard that is `joined` begins with what continues the last example before it.
    """
    totals: dict[str, int] = {}
    for shard, layouts, joined in shards:
        for name, layout in layouts.items():
            values, target = shard / f"{name}.values", folder / f"{name}.values"
            if not layout.scalar:
                ends = np.fromfile(shard / f"{name}.ends", dtype="<i8") + totals.get(name, 0)
                totals[name] = int(ends[-1])
                _append(folder / f"{name}.ends", ends.astype("<i8"), replacing=joined)
                (shard / f"{name}.ends").unlink()
                _append_file(values, target)
            else:
                numbers = np.fromfile(values, dtype=layout.dtype)
                if joined:
                    numbers[0] += np.fromfile(
                        target, dtype=layout.dtype, offset=target.stat().st_size - numbers.itemsize
                    )[0]
                _append(target, numbers, replacing=joined)
                values.unlink()


def _append(path: Path, numbers: np.ndarray, *, replacing: bool) -> None:
    """Appends to a file of numbers; `replacing` takes the place of its last one."""
    with path.open("ab") as file:
        if replacing:
            file.truncate(file.tell() - numbers.itemsize)
        file.write(numbers.tobytes())


def _append_file(source: Path, target: Path) -> None:
    if source.exists() and not target.exists():
        source.rename(target)
    elif source.exists():
        with source.open("rb") as reading, target.open("ab") as writing:
            while piece := reading.read(1 << 22):
                writing.write(piece)
        source.unlink()
