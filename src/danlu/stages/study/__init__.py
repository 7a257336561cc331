"""Study: measures what techniques do to the score, the speed and the memory, over seeds, with intervals."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import RequestError, RunError
from danlu.recipe import document
from danlu.recipe.recipe import Recipe
from danlu.recipe.resolved import given_tree
from danlu.recipe.study import StudyConfig
from danlu.stages.run_folder import new_run_folder, newest, write_atomically
from danlu.stages.study.arms import Arm, Run, arms_of, runs_of
from danlu.stages.study.effects import study_told
from danlu.stages.study.page import page
from danlu.stages.study.runs import Done, Runs
from danlu.stages.workers import work_many
from danlu.train.interrupts import Interrupts


def study(
    recipe: Recipe,
    *,
    techniques: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = False,
    hear: Callable[[Run, Done, int, int], None] | None = None,
) -> tuple[Path, str | None]:
    """Runs the recipe with and without each technique; returns the study's folder, and what signal ended it, if any.

    Everything that can be wrong with the request is found before the folder is made. A run that fails is recorded.

    Args:
        recipe: a recipe; its section `study` says more.
        techniques: whose effect to measure, by name; those of the section, else of the recipe, when empty.
        out: the study's folder; the next `runs/NAME-study/NUMBER` when absent.
        resume: go on with the study in `out` (or with the newest of this name); what had failed is done once more.
        hear: called once with every run that ends, its number in the order of ending, and how many there are.

    Raises:
        RequestError: the request was wrong; nothing was started or written.
        RunError: not one run could be finished.
    """
    arms = arms_of(recipe, techniques)
    with Interrupts() as interrupts:
        # what is wrong with the data ends the study before it begins
        recipe.task.prepare(recipe.data, seed=recipe.seed, base=recipe.model.from_, say=lambda _text: None)
        folder = _to_resume(recipe.name, out) if resume else new_run_folder(f"{recipe.name}-study", out)
        runs = Runs(runs_of(arms), folder, workers=(recipe.study or StudyConfig()).workers)
        _write_recipe(recipe, arms, folder)
        if resume:
            runs.forget_failed()
        _work(runs, interrupts, hear)
        told = study_told(recipe, arms, runs)
        _write(told, folder)
    if not told["counts"]["finished"] and interrupts.received is None:
        failed = next(done for done in map(runs.done, runs.runs) if done.state == "failed")
        raise RunError(f"every run failed; the first: {failed.reason.rstrip('.')}", where=str(folder))
    return folder, interrupts.reason


def _work(runs: Runs, interrupts: Interrupts, hear: Callable[[Run, Done, int, int], None] | None) -> None:
    known = {run.key for run in runs.runs if runs.done(run).state != "waiting"}

    def say() -> None:
        for run in runs.runs:
            if run.key not in known and (done := runs.done(run)).state != "waiting":
                known.add(run.key)
                if hear:
                    hear(run, done, len(known), len(runs.runs))

    if runs.workers == 1:
        runs.work(interrupts, say)
    else:
        num = max(1, min(runs.workers, len(runs.runs) - len(known)))
        work_many("danlu.stages.study.runs", runs.folder, num, interrupts, until=float("inf"), say=say)


def _to_resume(name: str, out: Path | None) -> Path:
    out = out or newest(f"{name}-study", what="study")
    if not (out / "recipe.yaml").is_file() or (out / "journal.jsonl").exists() or (out / "tune.json").exists():
        raise RequestError("this is no study's folder", where=str(out), mend="Name a folder that danlu study wrote")
    return out


def _write_recipe(recipe: Recipe, arms: Sequence[Arm], folder: Path) -> None:
    """The recipe as it was given, for the study's workers and for going on, with what is measured written out."""
    section = (recipe.study or StudyConfig()).model_copy(update={"techniques": tuple(arm.technique for arm in arms)})
    study = section.model_dump(mode="json", by_alias=True)
    write_atomically(folder / "recipe.yaml", document.dump({**given_tree(recipe), "study": study}))


def _write(told: dict[str, Any], folder: Path) -> None:
    # JSON has no NaN: what is not known is null
    known = json.loads(json.dumps(told), parse_constant=lambda _word: None)
    write_atomically(folder / "study.json", json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / "report.html", page(known, folder=folder))


def read_results(folder: Path) -> dict[str, Any]:
    """What `study.json` of a study holds."""
    found: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    return found
