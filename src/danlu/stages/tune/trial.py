"""One trial: an ordinary run in its own folder, watched through its journal."""

import dataclasses
import gc
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError, RunError
from danlu.core.journal import Record, number, read_journal, standing
from danlu.stages.tune.parts import hushed
from danlu.stages.tune.search import Objective, Search, State, Taken
from danlu.stages.tune.space import recipe_with
from danlu.stages.workers import note_failure, run_to_end
from danlu.train.interrupts import Interrupts


@dataclasses.dataclass(kw_only=True)
class Watcher:
    """Listens to a run's journal, and asks for its end where the pruner sees no hope in its evaluations.

    With several objectives there is none to judge by, and nothing is pruned.
    """

    trial: Any
    objective: Objective | None
    interrupts: Interrupts
    num_evaluations: int = 0
    pruned: bool = False

    def hear(self, record: Record) -> None:
        if record["kind"] == "start" and record.get("resumed_from") is None:
            self.num_evaluations = 0
        if record["kind"] != "evaluation" or self.objective is None:
            return
        self.num_evaluations += 1
        value = number(record["metrics"].get(self.objective.name, math.nan))  # type: ignore[attr-defined]
        if math.isnan(value):
            return
        with hushed():  # what is evaluated again after a resume is known already
            self.trial.report(value, self.num_evaluations)
        if self.trial.should_prune():
            self.pruned = True
            times = "evaluation" if self.num_evaluations == 1 else f"{self.num_evaluations} evaluations"
            self.interrupts.ask(f"pruned: {self.objective.name} {value:.4g} after {times} is not among the better ones")


def run_trial(search: Search, taken: Taken, interrupts: Interrupts) -> State:
    """Runs the trial to its end, or to where it is pruned or interrupted, and tells the search. Never raises for what
    went wrong in the trial: that is recorded."""
    started = time.monotonic()
    state, reason, scores = _outcome(search, taken, interrupts)
    search.tell(taken, state, reason=reason, seconds=time.monotonic() - started, scores=scores)
    gc.collect()  # what a failed run still holds in reference cycles must not cost the next one its memory
    return state


def _outcome(search: Search, taken: Taken, interrupts: Interrupts) -> tuple[State, str, Mapping[str, float]]:
    folder = search.run_folder(taken.number)
    try:
        recipe = recipe_with(search.tree, search.values(taken.trial))
        judged = search.objectives[0] if len(search.objectives) == 1 else None
        watcher = Watcher(trial=taken.trial, objective=judged, interrupts=interrupts)
        if (folder / "journal.jsonl").is_file():
            watcher.num_evaluations = _evaluations_before(folder)
        summary = run_to_end(recipe, folder, interrupts, [watcher.hear] if judged else [])
        if summary["status"] != "finished":
            reason = str(summary["reason"])
            return ("pruned", reason, {}) if watcher.pruned and not interrupts.received else ("running", reason, {})
        return "finished", str(summary["reason"]), scores_of(folder, summary, search.objectives)
    except DanluError as error:
        return "failed", note_failure(folder, str(error)), {}
    except Exception as error:  # noqa: BLE001 (whatever ends one trial must not end the search)
        return "failed", note_failure(folder, f"{type(error).__name__}: {error}"), {}


def _evaluations_before(folder: Path) -> int:
    """Evaluations up to the newest checkpoint: those after it are done again."""
    records = standing(read_journal(folder / "journal.jsonl"))
    saved = max((int(number(record["step"])) for record in records if record["kind"] == "checkpoint"), default=0)
    return sum(record["kind"] == "evaluation" and int(number(record["step"])) <= saved for record in records)


def scores_of(folder: Path, summary: Mapping[str, Any], objectives: list[Objective]) -> dict[str, float]:
    """The objectives' values: metrics of the best evaluation, speed, size.

    Raises:
        RunError: one is missing or no number.
    """
    start = next(record for record in read_journal(folder / "journal.jsonl") if record["kind"] == "start")
    sizes = {name: start[name] for name in ("parameters", "trainable_parameters")}
    known = {**sizes, **summary["speed"], **summary["metrics"]["best"]}
    found = {}
    for objective in objectives:
        value = number(known.get(objective.name, math.nan))
        if not math.isfinite(value):
            there = f"it is {known[objective.name]}" if objective.name in known else f"there are {', '.join(known)}"
            raise RunError(f"the run gave no {objective.name}: {there}", where="tune.objectives")
        found[objective.name] = value
    return found
