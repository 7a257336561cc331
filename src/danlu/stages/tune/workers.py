"""What a process that works on a search does; there may be many."""

import time
from collections.abc import Callable
from pathlib import Path

from danlu.recipe.load import load_recipe
from danlu.stages.tune.search import Search
from danlu.stages.tune.trial import run_trial
from danlu.stages.workers import light_collection
from danlu.train.interrupts import Interrupts


def work(search: Search, interrupts: Interrupts, *, until: float, say: Callable[[], None] = lambda: None) -> None:
    """Runs trials in this process until the budget is used, `until` (Unix seconds) is past, or a signal comes."""
    with light_collection():
        while interrupts.reason is None and time.time() < until:
            taken = search.take()
            if taken is None:
                return
            state = run_trial(search, taken, interrupts)
            say()
            if state == "running":
                return


def join(folder: Path, interrupts: Interrupts, *, until: float, say: Callable[[], None]) -> None:
    """Works on the search in `folder`, which another process began."""
    work(Search(load_recipe(folder / "recipe.yaml"), folder), interrupts, until=until, say=say)
