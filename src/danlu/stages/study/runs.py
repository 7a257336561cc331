"""The runs of a study: who runs which, what has become of it, and what it gave.

A run lies in `runs/KEY`. A finished one with the same key in a study beside this one is taken from there. A worker
holds a file lock for the run that it is at; one that is not at its end and whose lock is free has lost its worker, and
whoever comes next goes on with it from its newest checkpoint.
"""

import dataclasses
import gc
import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from danlu.core.errors import DanluError
from danlu.core.journal import number, read_journal, standing
from danlu.recipe.load import load_recipe
from danlu.stages.study.arms import Run, arms_of, runs_of
from danlu.stages.workers import hold, light_collection, note_failure, run_to_end, summary_of
from danlu.train.interrupts import Interrupts

State = Literal["finished", "failed", "waiting"]
MOST_STARTS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """What has become of a run. `scores` are the metrics of the model that it left; `apart` says that its speed and
    memory cannot be compared with those of the others: it is of another study, or had others beside it."""

    state: State
    folder: Path
    reused: bool = False
    apart: bool = False
    reason: str = ""
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    steps: float = math.nan
    seconds: float = math.nan
    tokens_per_second: float = math.nan
    peak_memory_bytes: float = math.nan


class Runs:
    """Those of one study, in the order in which they are to be done."""

    def __init__(self, runs: Sequence[Run], folder: Path, *, workers: int) -> None:
        self.runs, self.folder, self.workers = runs, folder, workers
        self._ended: dict[str, Done] = {}

    def work(self, interrupts: Interrupts, say: Callable[[], None] = lambda: None) -> None:
        """Runs in this process what nobody else is at, until nothing is left or a signal comes."""
        with light_collection():
            for run in self.runs:
                lock = None if interrupts.reason or self.done(run).state != "waiting" else hold(self._note(run))
                if lock is None:
                    continue
                with lock:
                    self._do(run, lock, interrupts)
                say()

    def done(self, run: Run) -> Done:
        """What is known of the run now."""
        if run.key not in self._ended:
            done = self._look(run)
            if done.state == "waiting":
                return done
            self._ended[run.key] = done
        return self._ended[run.key]

    def forget_failed(self) -> None:
        """Whatever failed is done once more: the reason may be mended."""
        for run in self.runs:
            if self.done(run).state == "failed" and (lock := hold(self._note(run))):
                with lock:
                    shutil.rmtree(self.folder / "runs" / run.key)
                    lock.truncate(0)
                del self._ended[run.key]

    def _do(self, run: Run, lock: IO[str], interrupts: Interrupts) -> None:
        folder = self.folder / "runs" / run.key
        lock.seek(0)
        starts = [*lock.read().split(), str(self.workers)]  # a word for each start: how many workers there were
        lock.write(f"{self.workers} ")
        lock.flush()
        try:
            if len(starts) > MOST_STARTS:
                note_failure(folder, f"its process ended without a word {MOST_STARTS} times (memory?)")
                return
            gc.collect()  # what others left must not count as this one's memory
            run_to_end(run.recipe, folder, interrupts)
        except DanluError as error:
            note_failure(folder, str(error))
        except Exception as error:  # noqa: BLE001 (whatever ends one run must not end the study)
            note_failure(folder, f"{type(error).__name__}: {error}")
        if interrupts.reason:  # it was not the run's fault
            lock.truncate(0)
            lock.write(f"{self.workers} ")

    def _note(self, run: Run) -> Path:
        return self.folder / ".locks" / run.key

    def _look(self, run: Run) -> Done:
        own = self.folder / "runs" / run.key
        beside = self.folder.parent.glob(f"*/runs/{run.key}")
        for folder in (own, *sorted(path for path in beside if path.parent.parent != self.folder)):
            if summary_of(folder).get("status") == "finished":
                note = self._note(run)
                beside_it = note.read_text(encoding="utf-8").split() if note.is_file() else []
                return measured(folder, reused=folder != own, apart=folder != own or bool(set(beside_it) - {"1"}))
        if (own / "failed.txt").is_file():
            reason = (own / "failed.txt").read_text(encoding="utf-8").strip()
            return Done(state="failed", folder=own, reason=reason)
        return Done(state="waiting", folder=own)


def measured(folder: Path, *, reused: bool = False, apart: bool = False) -> Done:
    """What a finished run gave: the metrics of the weights that it left, the median speed of its readings but the
    first, which pays for the start, and its peak of memory."""
    summary = summary_of(folder)
    restored = any(told["applied"] and told["action"].get("restore_best") for told in summary["actions"])
    metrics = summary["metrics"]["best" if restored else "last"]
    rates = [
        number(record["values"]["tokens_per_second"])  # type: ignore[index]
        for record in standing(read_journal(folder / "journal.jsonl"))
        if record["kind"] == "reading"
    ]
    speed: Mapping[str, Any] = summary["speed"]
    return Done(
        state="finished",
        folder=folder,
        reused=reused,
        apart=apart,
        scores={name: number(value) for name, value in metrics.items() if name != "step" and _is_number(value)},
        steps=number(summary["steps"]),
        seconds=number(speed["seconds"]),
        tokens_per_second=statistics.median(rates[1:] or rates or [number(speed["tokens_per_second"])]),
        peak_memory_bytes=number(speed["peak_memory_bytes"]),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def join(folder: Path, interrupts: Interrupts, *, until: float, say: Callable[[], None]) -> None:
    """Works on the study in `folder`, which another process began; it has no limit of time."""
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.study is not None
    Runs(runs_of(arms_of(recipe)), folder, workers=recipe.study.workers).work(interrupts, say)
