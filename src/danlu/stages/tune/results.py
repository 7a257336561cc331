"""What a search leaves besides its trials: best.yaml, tune.json and report.html."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from danlu.recipe.resolved import resolved_yaml
from danlu.stages.run_folder import write_atomically
from danlu.stages.tune.page import page
from danlu.stages.tune.search import Search, Trial
from danlu.stages.tune.space import recipe_with


def write_results(search: Search) -> Mapping[str, Any]:
    """Writes them as the search stands now, and returns what is in tune.json."""
    best, trials = search.best(), search.trials()
    told = {
        "name": search.recipe.name,
        "sampler": search.config.sampler,
        "pruner": search.config.pruner,
        "objectives": [{"name": objective.name, "better": objective.better} for objective in search.objectives],
        "space": {key: axis.written() for key, axis in search.config.space.items()},
        "counts": _counts(trials),
        "seconds": round(sum(trial.seconds for trial in trials), 3),
        "best": best[0].number if best else None,
        "front": [trial.number for trial in best],
        "importance": search.importance(),
        "trials": [_trial(trial) for trial in trials],
    }
    if best:
        write_atomically(search.folder / "best.yaml", resolved_yaml(recipe_with(search.tree, best[0].values)))
    write_atomically(search.folder / "tune.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    write_atomically(search.folder / "report.html", page(told, folder=search.folder))
    return told


def _counts(trials: Sequence[Trial]) -> dict[str, int]:
    states = ("finished", "pruned", "failed", "running")
    return {state: sum(trial.state == state for trial in trials) for state in states}


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "scores": dict(trial.scores),
        "values": dict(trial.values),
        "seconds": round(trial.seconds, 3),
        "reason": trial.reason,
        "run": f"trials/{trial.number}",
    }
