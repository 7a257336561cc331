"""The loop: draw, step, read, diagnose, act, evaluate, checkpoint."""

import dataclasses
import time
from typing import Literal

from danlu.core.errors import RunError
from danlu.train.engine import Engine
from danlu.train.interrupts import Interrupts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """How training ended, for the journal and the summary."""

    status: Literal["finished", "stopped", "failed"]
    reason: str


def train(engine: Engine, interrupts: Interrupts) -> Ending:
    """Runs until the budget is used, a technique or a controller stops it, a signal comes or a listener asks.

    Raises:
        RunError: the loss is not finite and nobody mended it, the disk is full, memory ran out, and the like.
    """
    origin = time.monotonic() - engine.clock.seconds
    engine.watch.good.begin(engine)
    while not engine.clock.done and engine.stop is None:
        if engine.world.any_across(interrupts.reason is not None):
            return _interrupted(engine, interrupts)
        started = time.monotonic()
        for technique, state in engine.active:
            engine.watch.obey(technique.before_step(engine.context(), state), technique.name())
        if engine.stop is not None:
            break
        ctx, before = engine.context(), engine.clock
        batch, position, data_wait_seconds = engine.draw()
        engine.probes.before_step(engine.clock)
        micro_cost = engine.stepper.micro_cost
        result = engine.stepper.step(batch, ctx)
        if engine.stepper.micro_cost < micro_cost:
            engine.watch.tell_halved()
        engine.advance(result, position, seconds=time.monotonic() - origin)
        engine.follow(result)
        engine.read(before, result, step_seconds=time.monotonic() - started, data_wait_seconds=data_wait_seconds)
        best = engine.plan.evaluate_every.due(before, engine.clock) and engine.evaluate()
        if best or engine.plan.checkpoint_every.due(before, engine.clock):
            engine.save(best=best)
    return _finished(engine)


def _finished(engine: Engine) -> Ending:
    """The last evaluation and checkpoint; then the best weights, when whoever stopped the run asked for them.

    A run that was stopped as failed leaves none of these: its last good checkpoint must stand.
    """
    if engine.stop is not None and engine.stop.failed:
        mend = "See the findings in the journal; the last checkpoint before it is whole"
        raise RunError(engine.stop.because, mend=mend)
    at = engine.clock.step
    best = (engine.evaluation is None or engine.evaluation.step != at) and engine.evaluate()
    if engine.saved_at != at or best:
        engine.save(best=best)
    if engine.stop is None:
        if engine.watch.policy.acted("add_regularisation"):
            engine.restore_best()
        return Ending(status="finished", reason="the budget is used")
    if engine.stop.restore_best:
        engine.restore_best()
    return Ending(status="finished", reason=engine.stop.because)


def _interrupted(engine: Engine, interrupts: Interrupts) -> Ending:
    if engine.saved_at != engine.clock.step:
        engine.save()
    reason = engine.world.broadcast_object(interrupts.reason or "signal from another process")
    return Ending(status="stopped", reason=reason)
