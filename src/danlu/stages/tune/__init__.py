"""Tune: searches better values for recipe keys; each trial is an ordinary run."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from danlu.core.errors import RequestError, RunError
from danlu.recipe import document
from danlu.recipe.recipe import Recipe
from danlu.recipe.resolved import given_tree
from danlu.stages.run_folder import new_run_folder, newest, write_atomically
from danlu.stages.tune.parts import need_sampler
from danlu.stages.tune.results import write_results
from danlu.stages.tune.search import Search, Trial, objectives_of
from danlu.stages.tune.space import check_space
from danlu.stages.tune.workers import work
from danlu.stages.workers import work_many
from danlu.train.interrupts import Interrupts


def tune(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    hear: Callable[[Search, Trial], None] | None = None,
) -> tuple[Path, str | None]:
    """Searches what the recipe's `tune` section says; returns the search's folder, and what signal ended it, if any.

    Everything that can be wrong with the request is found before the folder is made.

    Args:
        recipe: a recipe with a `tune` section.
        out: the search's folder; the next `runs/NAME-tune/NUMBER` when absent.
        resume: go on with the search in `out` (or with the newest of this name), or help others who work on it.
        hear: called once with every trial that ends.

    Raises:
        RequestError: the request was wrong; nothing was started or written.
        RunError: not one trial could be finished.
    """
    objectives_of(recipe)
    assert recipe.tune is not None  # objectives_of has refused a recipe without it
    need_sampler(recipe.tune)
    tree = given_tree(recipe)
    check_space(tree, recipe.tune.space, seed=recipe.seed)
    with Interrupts() as interrupts:
        # tokenised once, for all; and what is wrong with the data ends the search before it begins
        recipe.task.prepare(recipe.data, seed=recipe.seed, base=recipe.model.from_, say=lambda _text: None)
        folder = search_to_resume(recipe.name, out) if resume else new_run_folder(f"{recipe.name}-tune", out)
        search = _open(recipe, folder, write=not resume)
        told = {trial.number for trial in search.trials() if trial.state != "running"}

        def say() -> None:
            for trial in search.trials():
                if trial.state != "running" and trial.number not in told:
                    told.add(trial.number)
                    if hear:
                        hear(search, trial)

        until = time.time() + 60 * (recipe.tune.minutes or float("inf"))
        if recipe.tune.workers == 1:
            work(search, interrupts, until=until, say=say)
        else:
            work_many("danlu.stages.tune.workers", folder, recipe.tune.workers, interrupts, until=until, say=say)
        results = write_results(search)
    if not results["counts"]["finished"] and interrupts.received is None:
        _complain(search)
    return folder, interrupts.reason


def search_to_resume(name: str, out: Path | None) -> Path:
    """`out`, or the newest of `runs/NAME-tune`.

    Raises:
        RequestError: there is no such search.
    """
    if out is None:
        out = newest(f"{name}-tune", what="search")
    if not (out / "recipe.yaml").is_file() or (not (out / "study.log").is_file() and not (out / ".locks").is_dir()):
        raise RequestError("this is no search's folder", where=str(out), mend="Name a folder that danlu tune wrote")
    return out


def _open(recipe: Recipe, folder: Path, *, write: bool) -> Search:
    """The search; a new one keeps its recipe as it was given, for its workers and for going on."""
    assert recipe.tune is not None
    section = recipe.tune.model_dump(mode="json", exclude_unset=True)
    text = document.dump({**given_tree(recipe), "tune": section})
    if write:
        write_atomically(folder / "recipe.yaml", text)
    search = Search(recipe, folder)
    if not write:  # the budget and the number of workers may have changed
        write_atomically(folder / "recipe.yaml", text)
    return search


def _complain(search: Search) -> None:
    failed = [trial for trial in search.trials() if trial.state == "failed"]
    first = f"; trial {failed[0].number}: {failed[0].reason.rstrip('.')}" if failed else ""
    raise RunError(f"no trial finished ({len(failed)} failed){first}", where=str(search.folder))


def read_results(folder: Path) -> dict[str, object]:
    """What `tune.json` of a search holds."""
    found: dict[str, object] = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    return found
