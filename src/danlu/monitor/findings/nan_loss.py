"""The loss or a gradient is no number any more."""

import math

from danlu.core.action import SkipStep, Stop
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History
from danlu.monitor.layers import layer_of_module

_WORDS = {
    "weight": "a weight of {} already was",
    "input": "what went into {} was",
    "output": "what {} gave was the first",
    "gradient": "the gradient within {} was the first",
    "loss": "the loss of {} was the first, its outputs being finite",
}


class NanLoss(Diagnosis):
    """Found when a loss or a gradient is NaN or infinite; names the step, and the layer where it was looked for.

    `serious` when nothing can come of the run as it is: the newest loss is no number, or `often` steps were not finite
    within `within` steps. A `warning` when a single step's gradient was not finite and the loss still is.
    """

    often: int = 5
    """steps that are not finite, before it is more than an accident"""
    within: int = 20
    """steps in which these lie"""

    def diagnose(self, history: History) -> list[Finding]:
        losses, steps = history.series("loss", 1), history.steps("loss", 1)
        at = steps[0] if steps else 0
        marks = {key: history.steps(key) for key in history.names if key.startswith("not_finite/")}
        marked = sorted({step for known in marks.values() for step in known})
        bad_loss = bool(losses) and not math.isfinite(losses[0])
        norms, norm_steps = history.series("grad_norm", 1), history.steps("grad_norm", 1)
        bad_norm = bool(norms) and norm_steps[0] >= at and not math.isfinite(norms[0])
        newly_marked = bool(marked) and marked[-1] >= at
        if not (bad_loss or bad_norm or newly_marked):
            return []
        step = _first_step(history, "loss" if bad_loss else "grad_norm", at)
        step = step if step is not None else marked[-1] if newly_marked else at
        again = len([known for known in marked if known > step - self.within]) >= self.often
        return self._tell(history, step, max(at, *marked[-1:], step), bad_loss, again)

    def _tell(self, history: History, step: int, now: int, bad_loss: bool, again: bool) -> list[Finding]:
        loss = history.series("loss", 1)
        kind = ("NaN" if math.isnan(loss[0]) else "infinite") if bad_loss else "not a number in its gradient"
        evidence = {"loss": loss[0] if loss else math.nan, "step": float(step)}
        rate = history.series("learning_rate", 1)
        evidence |= {"learning_rate": rate[0]} if rate else {}
        where, ids = "", tuple(history.examples.get("not_finite", ()))
        for key in history.names:
            if key.startswith("not_finite/") and history.steps(key, 1)[0] > step - self.within:
                _, what, module = key.split("/", 2)
                layer = module if layer_of_module(module) in ("", "model") else layer_of_module(module)
                where = f" In {layer}: " + _WORDS[what].format(module) + " to be no number."
                evidence[key] = history.series(key, 1)[0]
        if bad_loss or again:
            sentence = (
                f"The loss became {kind} at step {step}: from there on every gradient is useless.{where} Mostly the "
                "learning rate is too high, or a number overflowed"
            )
            stop = Stop(because=f"the loss is not finite since step {step}", failed=True)
            return self.found(now, sentence, evidence, severity="serious", suggests=(stop,), example_ids=ids)
        sentence = (
            f"Step {step} had a gradient that is no number, and the loss before it was finite.{where} Left out, one "
            "such step does no harm; taken, it makes every weight useless"
        )
        skip = SkipStep(because=f"the gradient of step {step} is no number")
        return self.found(now, sentence, evidence, suggests=(skip,), example_ids=ids)


def _first_step(history: History, key: str, at: int) -> int | None:
    """The step marked as the first that is not finite, if the newest reading has such a mark."""
    mark = f"{key}/not_finite_step"
    return int(history.series(mark, 1)[0]) if history.steps(mark, 1) and history.steps(mark, 1)[0] == at else None
