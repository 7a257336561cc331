"""What a person sees while a run goes on: a listener of the journal, in one of four manners."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from danlu.cli.words import metrics_line, rate
from danlu.core.journal import Record, number
from danlu.core.words import count, duration

if TYPE_CHECKING:
    from rich.console import Console

Manner = Literal["live", "plain", "quiet", "json"]
Listener = Callable[[Record], None]

PLAIN_EVERY_SECONDS = 5.0


def manner_of(*, quiet: bool, as_json: bool) -> Manner:
    """How to tell: as asked; otherwise a live line on a terminal and plain lines elsewhere."""
    if as_json:
        return "json"
    if quiet:
        return "quiet"
    return "live" if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else "plain"


@contextmanager
def watching(manner: Manner) -> Iterator[list[Listener]]:
    """The listeners to hand to a run. Processes other than the first have none."""
    if os.environ.get("RANK", "0") != "0" or manner == "quiet":
        yield []
    elif manner == "json":
        yield [_write_json]
    elif manner == "plain":
        yield [PlainLines().hear]
    else:
        with LiveLine() as line:
            yield [line.hear]


def _write_json(record: Record) -> None:
    if "time" not in record:  # said before there was a journal
        return
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stdout.flush()


class Story:
    """Turns records into sentences, and keeps what the live line shows: the newest numbers and the last finding."""

    def __init__(self) -> None:
        self.name = ""
        self.budget: dict[str, Any] = {}
        self.values: dict[str, float] = {}
        self.step = 0
        self.progress = 0.0
        self.seconds = 0.0
        self.finding = ""
        self.doing = ""

    def hear(self, record: Record) -> str | None:
        """Takes a record in; returns the line to print for it, if it deserves one."""
        tell = getattr(self, f"_{record['kind']}", None)
        self.step = int(number(record.get("step", self.step)))
        return tell(record) if tell else None

    def numbers(self) -> list[str]:
        """The newest reading as short words: how far, loss, speed, time left."""
        words = [self.how_far()]
        if "loss" in self.values:
            words.append(f"loss {self.values['loss']:.4f}")
        words += [rate(self.values[name], name) for name in _SPEEDS if name in self.values][:1]
        left = self.seconds_left()
        return words if left is None else [*words, f"{duration(left)} left"]

    def how_far(self) -> str:
        steps = self.budget.get("steps")
        return f"step {self.step}" + (f"/{steps}" if steps else f" ({self.progress:.0%})")

    def seconds_left(self) -> float | None:
        """By the pace so far; None before there is one."""
        if not 0 < self.progress < 1 or self.seconds <= 0:
            return None
        return self.seconds * (1 - self.progress) / self.progress

    def _start(self, record: Record) -> str:
        self.name, self.budget = str(record.get("name", "")), dict(record.get("budget") or {})  # type: ignore[call-overload]
        resumed = record.get("resumed_from")
        words = [f"{count(number(record['parameters']))} parameters"] if "parameters" in record else []
        trainable = record.get("trainable_parameters")
        if trainable not in (None, record.get("parameters")):
            words[-1:] = [f"{words[-1]}, {count(number(trainable))} of them trained"]
        words += [f"{count(number(record['train_tokens']))} tokens"] if record.get("train_tokens") else []
        processes = number(record.get("world_size", 1))
        words.append(str(record.get("device", "")) + (f" x {processes:.0f} processes" if processes > 1 else ""))
        words += [str(record["precision"])] if "precision" in record else []
        words += [f"{number(record['micro_batch']):.0f} rows at a time"] if record.get("micro_batch") else []
        begin = f"resumed at step {resumed}" if resumed is not None else "started"
        return f"{self.name} {begin}: " + " · ".join(word for word in words if word)

    def _reading(self, record: Record) -> None:
        values = record.get("values") or {}
        self.values = {name: number(value) for name, value in values.items()}  # type: ignore[attr-defined]
        self.progress, self.seconds = number(record.get("progress", 0.0)), number(record.get("seconds", 0.0))

    def _evaluation(self, record: Record) -> str:
        best = " · the best so far" if record.get("best") else ""
        return f"step {record['step']}: validation {metrics_line(record['metrics'])}{best}"

    def _finding(self, record: Record) -> str:
        self.finding = str(record.get("name", ""))
        return f"step {record['step']}: {record.get('severity', 'note')}: {record.get('sentence', self.finding)}"

    def _action(self, record: Record) -> str:
        action = record.get("action")
        if not isinstance(action, dict):
            return f"step {record['step']}: action: {action}"
        left_out = ("name", "because", "expects")
        options = ", ".join(f"{key} {value}" for key, value in action.items() if key not in left_out)
        what = f"{action.get('name', 'action')}" + (f" ({options})" if options else "")
        because = action.get("because")
        return f"step {record['step']}: {what}" + (f", because {because}" if because else "")

    def _note(self, record: Record) -> str:
        self.doing = str(record.get("text", ""))
        left_out = ("kind", "step", "time", "text", "curve")
        rows = {name: value for name, value in record.items() if name not in left_out}
        return self.doing + (f" ({', '.join(f'{name} {value}' for name, value in rows.items())})" if rows else "")

    def _sample(self, record: Record) -> str:
        text = " ".join(f"{record.get('prompt', '')}{record.get('text', '')}".split())
        return f"step {record['step']}: sample: {text[:150]}" + ("…" if len(text) > 150 else "")


_SPEEDS = ("tokens_per_second", "examples_per_second")


class PlainLines:
    """Plain lines for files, pipes and logs: what deserves a line at once, readings every few seconds."""

    def __init__(self, every_seconds: float = PLAIN_EVERY_SECONDS) -> None:
        self.story, self.every_seconds, self._last = Story(), every_seconds, -float("inf")

    def hear(self, record: Record) -> None:
        line = self.story.hear(record)
        if record["kind"] == "reading" and time.monotonic() - self._last >= self.every_seconds:
            self._last = time.monotonic()
            line = " · ".join(self.story.numbers())
        if line:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


class LiveLine:
    """One moving line at the bottom of a terminal; what deserves to stay is printed above it."""

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
        from rich.table import Column

        self.story = Story()
        one_line = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[tail]}", table_column=one_line),
            console=console or Console(highlight=False),
            transient=True,
            refresh_per_second=8,
            expand=True,
        )
        self.task = self.bar.add_task("preparing", total=1.0, tail="")

    def __enter__(self) -> "LiveLine":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def hear(self, record: Record) -> None:
        line = self.story.hear(record)
        if "time" not in record:  # what is being made ready: it moves on, nothing to keep
            self.bar.update(self.task, description=self.story.doing)
        elif line:
            self.bar.console.print(
                line, style=_STYLES.get(str(record["kind"])), markup=False, highlight=False, soft_wrap=True
            )
        if record["kind"] in ("start", "reading", "finding"):
            head, *rest = self.story.numbers()
            tail = " · ".join([*rest, self.story.finding] if self.story.finding else rest)
            self.bar.update(self.task, completed=self.story.progress, description=head, tail=tail)


_STYLES = {
    "start": "bold",
    "evaluation": "green",
    "finding": "yellow",
    "action": "magenta",
    "sample": "dim",
    "note": "dim",
}
