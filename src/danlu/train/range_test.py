"""The range test: a short run with a rising learning rate, before the run itself, that finds the rate."""

import contextlib
import dataclasses

from danlu.core.clock import Budget
from danlu.core.dials import Dial
from danlu.core.errors import RunError
from danlu.core.journal import Journal
from danlu.maths.range_test import diverged, pick_rate
from danlu.train.engine import Engine
from danlu.train.plan import Plan

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The rate, and the (rate, loss) of every step that was tried."""

    rate: float
    curve: tuple[tuple[float, float], ...]


def find_rate(plan: Plan) -> Found:
    """The learning rate for the peak of the schedule, to three digits: the same for the same plan.

    Trains `plan.model`, which is spent afterwards, for at most 100 steps on the first batches of the run; the rate
    goes up by the same factor, 17 %, at each of them. Nothing is journalled or written. Cost: those steps.

    Raises:
        RunError: the loss did not fall at any rate.
    """
    factor = (HIGHEST / LOWEST) ** (1 / (STEPS - 1))
    rising = Dial(name="learning_rate", schedule=lambda clock: LOWEST * factor**clock.step)
    dials = (rising, *(dial for dial in plan.dials if dial.name != rising.name))
    # a controller would skip the very steps that show where the loss begins to rise
    plan = dataclasses.replace(plan, dials=dials, budget=Budget(steps=STEPS), journal=Journal(None), control="off")
    engine = Engine(plan)
    curve: list[tuple[float, float]] = []
    with contextlib.closing(engine):
        while not engine.clock.done and not (curve and diverged([loss for _, loss in curve])):
            curve.append(_step(engine))
    rate = pick_rate(*zip(*curve, strict=True))
    if rate is None:
        raise RunError(
            f"no learning rate from {LOWEST:g} to {curve[-1][0]:.2g} made the loss fall",
            mend="Give train.optimizer.lr a number",
        )
    return Found(rate=float(f"{rate:.3g}"), curve=tuple(curve))


def _step(engine: Engine) -> tuple[float, float]:
    ctx = engine.context()
    for technique, state in engine.active:
        technique.before_step(ctx, state)
    batch, position, _ = engine.draw()
    result = engine.stepper.step(batch, ctx)
    engine.advance(result, position, seconds=0.0)
    engine.follow(result)
    return ctx.dial("learning_rate"), float(result.terms["loss"])
