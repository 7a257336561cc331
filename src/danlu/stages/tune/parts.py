"""Optuna's part of a search: storage, sampler, pruner and distributions, from the words of a recipe."""

import contextlib
import functools
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.core.errors import RequestError
from danlu.core.extras import need
from danlu.recipe.tune import Choice, Range, TuneConfig


def library() -> Any:
    """Optuna, quiet.

    Raises:
        RequestError: it is not installed.
    """
    optuna = need("optuna", extra="tune", what="danlu tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def need_sampler(config: TuneConfig) -> None:
    """Sees to it that what the sampler needs is installed.

    Raises:
        RequestError: it is not.
    """
    library()
    for sampler, module in (("cmaes", "cmaes"), ("gp", "scipy")):
        if config.sampler == sampler:
            need(module, extra="tune", what=f"the sampler {sampler}")


def storage(config: TuneConfig, folder: Path) -> Any:
    storages = library().storages
    if config.storage is None:
        return storages.JournalStorage(storages.journal.JournalFileBackend(str(folder / "study.log")))
    try:
        return storages.get_storage(config.storage)
    except Exception as error:  # the drivers of databases have exceptions of their own
        first = str(error).splitlines()[0]
        raise RequestError(f"the database cannot be opened: {first}", where="tune.storage") from error


def pruner(config: TuneConfig) -> Any:
    """Resources are counted in evaluations: the first is 1."""
    pruners = library().pruners
    make = {
        "none": pruners.NopPruner,
        "median": lambda: pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        "asha": lambda: pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=1, reduction_factor=3),
    }
    return make[config.pruner]()


def sampler(config: TuneConfig, seed: int) -> Any:
    samplers = library().samplers
    make = {
        "tpe": samplers.TPESampler,
        "random": samplers.RandomSampler,
        "grid": samplers.RandomSampler,  # never asked: every trial of a grid is enqueued
        "gp": samplers.GPSampler,
        "cmaes": functools.partial(samplers.CmaEsSampler, warn_independent_sampling=False),
    }
    return make[config.sampler](seed=seed)


def distribution(axis: Range | Choice) -> Any:
    """Optuna's words for an axis; whole numbers at equal distances keep their order, which every sampler can use."""
    kinds = library().distributions
    if isinstance(axis, Choice):
        if step := _even_step(axis):
            return kinds.IntDistribution(axis.values[0], axis.values[-1], step=step)
        return kinds.CategoricalDistribution(axis.labels)
    make = kinds.IntDistribution if axis.whole else kinds.FloatDistribution
    return make(axis.low, axis.high, log=axis.log)


def _even_step(axis: Choice) -> int | None:
    if not all(type(value) is int for value in axis.values):
        return None
    steps = {after - before for before, after in itertools.pairwise(axis.values)}  # type: ignore[operator]
    return steps.pop() if len(steps) == 1 and min(steps) > 0 else None


def decoded(axis: Range | Choice, value: object) -> object:
    if isinstance(axis, Choice) and not _even_step(axis):
        return axis.values[axis.labels.index(str(value))]
    return value


def grid_values(axis: Range | Choice) -> list[object]:
    if isinstance(axis, Range):
        return list(range(int(axis.low), int(axis.high) + 1))
    return list(axis.values if _even_step(axis) else axis.labels)


def value_at(at: int, trial: Any) -> float:
    return float(trial.values[at])


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
