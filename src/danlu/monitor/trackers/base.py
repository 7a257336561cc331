"""Tracker: shows a run on a board besides danlu's own, as a listener of the journal."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from danlu.core import discover
from danlu.core.config import Config
from danlu.core.extras import need
from danlu.core.journal import Record, number

Listener = Callable[[Record], None]


class Follower(Protocol):
    """What follows one run: called with each record of its journal, closed at its end."""

    def __call__(self, record: Record) -> None:
        """Takes in a record; kinds that the board has no place for are passed over."""

    def close(self) -> None:
        """Writes out what is still held."""


class Tracker(Config):
    """The parent of all trackers: one file below `monitor/trackers`, known by its name. Its fields are options."""

    library: ClassVar[str]
    """the module that it needs; the extra of danlu that brings it has the tracker's name"""

    @classmethod
    def name(cls) -> str:
        """Its file's name."""
        return cls.__module__.rpartition(".")[2]

    def follow(self, *, folder: Path, name: str, recipe: Mapping[str, object]) -> Follower:
        """Opens the board for a run, or goes on with it when the run is resumed.

        Args:
            folder: the run's folder.
            name: the run's name.
            recipe: the resolved recipe, to be shown as the run's settings.

        Raises:
            RequestError: the board cannot be reached.
        """
        raise NotImplementedError


def trackers(names: Sequence[str]) -> list[Tracker]:
    """The trackers that a recipe's `track` asks for; to be called before anything is written.

    Raises:
        RequestError: there is no such tracker, or its library is not installed.
    """
    found = [discover.find("danlu.monitor.trackers", name, Tracker, where="track")() for name in names]
    for tracker in found:
        need(tracker.library, extra=tracker.name(), what=f"track: {tracker.name()}")
    return found


@contextlib.contextmanager
def following(
    members: Iterable[Tracker], *, folder: Path, name: str, recipe: Mapping[str, object]
) -> Iterator[list[Listener]]:
    """One follower for each tracker, for the journal's `subscribe`; closed at the end. On the first process only."""
    with contextlib.ExitStack() as stack:
        followers: list[Listener] = []
        for tracker in members:
            follower = tracker.follow(folder=folder, name=name, recipe=recipe)
            stack.callback(follower.close)
            followers.append(follower)
        yield followers


def numbers_of(record: Record) -> dict[str, float]:
    """The numbers of a `reading` (by their names) or an `evaluation` (as `valid/NAME`); empty for other kinds."""
    if record["kind"] == "reading":
        values, prefix = record["values"], "train/"
    elif record["kind"] == "evaluation":
        values, prefix = record["metrics"], "valid/"
    else:
        return {}
    assert isinstance(values, Mapping)
    return {prefix + str(name): number(value) for name, value in values.items()}


def text_of(record: Record) -> tuple[str, str] | None:
    """(title, text) of a record that is for reading: samples, findings, actions; None for other kinds."""
    if record["kind"] == "sample":
        return "sample", f"{record.get('prompt', '')}{record.get('text', '')}"
    if record["kind"] == "finding":
        return f"finding/{record.get('name', '')}", str(record.get("sentence", ""))
    if record["kind"] == "action":
        return "action", ", ".join(f"{key} {value}" for key, value in record.items() if key not in ("kind", "time"))
    return None


def flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, str | float]:
    """A nested recipe as `section.key` → value, lists as text."""
    found: dict[str, str | float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        elif value is not None:
            found[f"{prefix}{key}"] = value if isinstance(value, (int, float, str)) else str(value)
    return found
