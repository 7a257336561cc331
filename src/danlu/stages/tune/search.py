"""Search: the trials of one search, kept by Optuna in one journal file (or database) that many workers share.

A worker holds a file lock for the trial that it runs. A trial that is not told yet and whose lock is free has lost its
worker (Ctrl-C, kill, power): whoever comes next goes on with it from its newest checkpoint.
"""

import contextlib
import dataclasses
import fcntl
import functools
import itertools
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from danlu.core.errors import RequestError
from danlu.core.seeds import seed_of
from danlu.recipe.recipe import Recipe
from danlu.recipe.resolved import given_tree
from danlu.recipe.tune import TuneConfig, read_objective
from danlu.stages.tune.parts import (
    decoded,
    distribution,
    grid_values,
    hushed,
    library,
    pruner,
    sampler,
    storage,
    value_at,
)
from danlu.stages.workers import hold

State = Literal["finished", "pruned", "failed", "running"]
MOST_STARTS = 3
_LOWER = ("loss", "perplexity", "bits_per_byte", "parameters", "trainable_parameters", "seconds", "peak_memory_bytes")
_HIGHER = ("accuracy", "f1", "tokens_per_second", "examples_per_second", "mfu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """What is compared, and which way is better."""

    name: str
    better: Literal["lower", "higher"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial as it stands; `scores` by objective, those of a pruned one are the last before it was stopped."""

    number: int
    state: State
    values: Mapping[str, object]
    scores: Mapping[str, float]
    reason: str
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taken:
    """A trial that this process runs, and the lock that says so."""

    trial: Any
    lock: IO[str]

    @property
    def number(self) -> int:
        return int(self.trial.number)


class Search:
    """One search: takes trials, tells how they ended, and lists them."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder, self.config = recipe, folder, _config_of(recipe)
        self.tree, self.objectives = given_tree(recipe), objectives_of(recipe)
        optuna = library()
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
        with self._alone():
            self.optuna = optuna.create_study(
                study_name=recipe.name,
                storage=storage(self.config, folder),
                directions=["minimize" if o.better == "lower" else "maximize" for o in self.objectives],
                pruner=pruner(self.config),
                load_if_exists=True,
            )
            self._check_same()
            if self.config.sampler == "grid":
                self._enqueue_grid()

    def take(self) -> Taken | None:
        """A trial that lost its worker, or a new one; None when the budget is used or all that is left is running."""
        with self._alone():
            for trial in self._known("RUNNING"):
                if (lock := self._hold(trial.number)) is not None:
                    if taken := self._again(trial, lock):
                        return taken
                    lock.close()
            number = len(self._known())
            if self._used_up(number):
                return None
            with hushed():
                self.optuna.sampler = sampler(self.config, seed_of(self.recipe.seed, "tune", number) % 2**32)
                trial = self.optuna.ask({key: distribution(axis) for key, axis in self.config.space.items()})
            lock = self._hold(trial.number)
            assert lock is not None  # a number is given out once
            return Taken(trial=trial, lock=lock)

    def tell(
        self, taken: Taken, state: State, *, reason: str, seconds: float, scores: Mapping[str, float] = {}
    ) -> None:
        """Records how a trial ended and lets go of it; `running` when it is to be gone on with another time."""
        states = library().trial.TrialState
        number, trial = taken.number, taken.trial
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("seconds", seconds + self._seconds_before(number))
        with self._alone():
            if state == "running":
                trial.set_user_attr("starts", 0)
            elif state == "finished":
                self.optuna.tell(number, [scores[objective.name] for objective in self.objectives])
            else:
                self.optuna.tell(number, state=states.PRUNED if state == "pruned" else states.FAIL)
        taken.lock.close()

    def trials(self) -> list[Trial]:
        """Every trial that was begun, by number."""
        return [self._row(trial) for trial in self._known() if trial.state.name != "WAITING"]

    def values(self, trial: Any) -> dict[str, object]:
        """The values of the searched keys, as the recipe takes them."""
        return {key: decoded(self.config.space[key], value) for key, value in trial.params.items()}

    def run_folder(self, number: int) -> Path:
        return self.folder / "trials" / str(number)

    def best(self) -> list[Trial]:
        """The best trial; with several objectives the Pareto front, the best by the first one in front."""
        front = {trial.number for trial in self.optuna.best_trials} if self._known("COMPLETE") else set()
        first = self.objectives[0]
        sign = 1 if first.better == "lower" else -1
        found = [trial for trial in self.trials() if trial.number in front]
        found = sorted(found, key=lambda trial: (sign * trial.scores[first.name], trial.number))
        return found if len(self.objectives) > 1 else found[:1]

    def importance(self) -> dict[str, dict[str, float]]:
        """Objective → key → share of what the values of this key alone explain (PED-ANOVA, Watanabe et al. 2023)."""
        if len(self._known("COMPLETE")) < 4:
            return {}
        found = {}
        for at, objective in enumerate(self.objectives):
            with hushed(), contextlib.suppress(ValueError, RuntimeError):
                target = None if len(self.objectives) == 1 else functools.partial(value_at, at)
                shares = library().importance.get_param_importances(self.optuna, target=target)
                found[objective.name] = {key: round(float(share), 6) for key, share in shares.items()}
        return found

    def _known(self, *states: str) -> list[Any]:
        trials = self.optuna.get_trials(deepcopy=False)
        return [trial for trial in trials if not states or trial.state.name in states]

    def _used_up(self, number: int) -> bool:
        waiting = len(self._known("WAITING"))
        if self.config.sampler == "grid" and not waiting:
            return True
        most = self.config.most_trials
        return most is not None and number - waiting >= most

    def _again(self, trial: Any, lock: IO[str]) -> Taken | None:
        """The trial once more, unless it is another machine's or has taken its process down too often."""
        if not self.run_folder(trial.number).exists() and self.config.storage is not None:
            return None
        again = library().trial.Trial(self.optuna, trial._trial_id)
        starts = int(trial.user_attrs.get("starts", 1)) + 1
        if starts > MOST_STARTS:
            again.set_user_attr("reason", f"its process ended without a word {MOST_STARTS} times (memory?)")
            self.optuna.tell(trial.number, state=library().trial.TrialState.FAIL)
            return None
        again.set_user_attr("starts", starts)
        return Taken(trial=again, lock=lock)

    def _seconds_before(self, number: int) -> float:
        return float(self._known()[number].user_attrs.get("seconds", 0.0))

    def _row(self, trial: Any) -> Trial:
        state: State = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "running")  # type: ignore[assignment]
        names = [objective.name for objective in self.objectives]
        return Trial(
            number=trial.number,
            state=state,
            values=self.values(trial),
            scores=dict(zip(names, trial.values or (), strict=False)) if state in ("finished", "pruned") else {},
            reason=str(trial.user_attrs.get("reason", "")),
            seconds=float(trial.user_attrs.get("seconds", 0.0)),
        )

    def _check_same(self) -> None:
        """A search that goes on must be the one that was begun, or its scores could not be compared."""
        now = {
            "recipe": self.tree,
            "space": {key: axis.written() for key, axis in self.config.space.items()},
            "objectives": [dataclasses.asdict(objective) for objective in self.objectives],
        }
        then = self.optuna.user_attrs.get("danlu")
        if then is None:
            self.optuna.set_user_attr("danlu", now)
            return
        now = json.loads(json.dumps(now))
        changed = [name for name in now if then[name] != now[name]]
        if changed:
            raise RequestError(
                f"the search was begun with another {' and another '.join(changed)}",
                where=str(self.folder),
                mend="Take the recipe in that folder, or begin a new search with another --out",
            )

    def _enqueue_grid(self) -> None:
        axes = {key: grid_values(axis) for key, axis in self.config.space.items()}
        rows = list(itertools.product(*axes.values()))
        random.Random(seed_of(self.recipe.seed, "grid")).shuffle(rows)
        known = {json.dumps(trial.system_attrs.get("fixed_params"), sort_keys=True) for trial in self._known()}
        for row in rows[: self.config.trials]:
            values = dict(zip(axes, row, strict=True))
            if json.dumps(values, sort_keys=True) not in known:
                self.optuna.enqueue_trial(values)

    def _hold(self, number: int) -> IO[str] | None:
        return hold(self.folder / ".locks" / str(number))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Within it no other worker takes or tells a trial."""
        with (self.folder / ".locks" / "study").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def objectives_of(recipe: Recipe) -> list[Objective]:
    """The objectives with their directions.

    Raises:
        RequestError: which way one is better is not known.
    """
    found = []
    for text in _config_of(recipe).objectives or (recipe.task.judged,):
        better, name = read_objective(text)
        if better is None and name == recipe.task.judged:
            better = recipe.task.better
        if better is None:
            better = "lower" if name in _LOWER else "higher" if name in _HIGHER else None
        if better is None:
            mend = f"Write 'higher {name}' or 'lower {name}'"
            raise RequestError(f"which {name} is better is not known", where="tune.objectives", mend=mend)
        found.append(Objective(name=name, better=better))  # type: ignore[arg-type]
    return found


def _config_of(recipe: Recipe) -> TuneConfig:
    if recipe.tune is None:
        mend = "Add one such as tune: {space: {train.optimizer.lr: log(1e-4, 1e-2)}}"
        raise RequestError("the recipe has no section tune", mend=mend)
    return recipe.tune
