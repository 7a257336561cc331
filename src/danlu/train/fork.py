"""Fork: the run is continued in several ways from one state, and the best of them is kept."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from danlu.core.action import Branch, SetDial
from danlu.train.acts import RefusedError
from danlu.train.good import Snapshot

if TYPE_CHECKING:
    from danlu.train.engine import Engine

_MOST_TIMES = 64
"""how many times the steps of the unchanged fork another one may need to see as many examples"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forked:
    """How it ended: which of the tries the run goes on with (None: unchanged), and the score of each, lower is better.

    `extra_steps` were made by forks that were not kept, or after the point from which the run goes on.
    """

    choice: int | None
    kept: bool
    unchanged: float
    scores: Sequence[float]
    extra_steps: int
    sentence: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Way:
    """One fork: its score, the state before its rate fell, the steps that it made and where they led."""

    score: float
    state: Snapshot
    num_steps: int
    examples: int


def fork(engine: "Engine", branch: Branch) -> Forked:
    """Tries them all; afterwards the engine stands where the best of them stood after `branch.steps`.

    Forks are compared after equal steps; where the budget is not counted in steps, after equal numbers of examples.

    Raises:
        RefusedError: the model is too large to be held several times, or there is no such dial.
    """
    if not engine.watch.good.small:
        raise RefusedError("the model is too large to be kept in memory several times")
    for action in (action for tried in branch.tries for action in tried):
        if action.dial not in engine.dials:
            raise RefusedError(f"this run has no dial {action.dial}")
    origin = Snapshot.take(engine)
    unchanged = _go(engine, branch, (), until=None)
    ways = []
    for tried in branch.tries:
        origin.put_back(engine)
        ways.append(_go(engine, branch, tried, until=unchanged.examples))
    scores = [way.score for way in ways]
    least = min(range(len(ways)), key=scores.__getitem__)
    better = math.isfinite(scores[least]) and not (
        scores[least] >= unchanged.score - branch.gain * abs(unchanged.score)
    )
    winner = ways[least] if better else unchanged
    winner.state.put_back(engine)
    told = ", ".join(f"{score:.4g}" for score in scores)
    return Forked(
        choice=least if better else None,
        kept=better,
        unchanged=unchanged.score,
        scores=scores,
        extra_steps=sum(way.num_steps for way in (unchanged, *ways)) - (engine.clock.step - origin.step),
        sentence=f"validation loss {unchanged.score:.4g} unchanged, {told} otherwise",
    )


def _go(engine: "Engine", branch: Branch, tried: Sequence[SetDial], *, until: int | None) -> _Way:
    """Trains one fork; what its techniques ask for is not heard, for it may come to nothing."""
    for action in tried:
        engine.dials.turn(action, engine.clock)
    begin, by_examples = engine.clock.step, engine.plan.budget.steps is None and until is not None
    while engine.clock.step - begin < branch.steps * (_MOST_TIMES if by_examples else 1):
        if by_examples and engine.clock.examples >= (until or 0):
            break
        _step(engine)
    state, examples = Snapshot.take(engine), engine.clock.examples
    if branch.decay_steps:
        rate = engine.dials.override_on("learning_rate")
        kind = rate.kind if rate is not None else "scale"
        fall = SetDial(dial="learning_rate", kind=kind, number=0.0, over=branch.decay_steps)
        engine.dials.turn(fall, engine.clock)
    for _ in range(branch.decay_steps):
        _step(engine)
    metrics, _ = engine.measure()
    task = engine.plan.task
    score = metrics.get("loss", metrics[task.judged] * (1 if task.better == "lower" else -1))
    return _Way(
        score=score if math.isfinite(score) else math.inf,
        state=state,
        num_steps=engine.clock.step - begin,
        examples=examples,
    )


def _step(engine: "Engine") -> None:
    started, seconds = time.monotonic(), engine.clock.seconds
    ctx = engine.context()
    for technique, state in engine.active:
        technique.before_step(ctx, state)
    batch, position, _ = engine.draw()
    result = engine.stepper.step(batch, ctx)
    engine.advance(result, position, seconds=seconds + time.monotonic() - started)
    engine.follow(result)
