"""The training loss, each further term of it, and what else the task reads of its own step."""

import math
from collections.abc import Mapping

from torch import nn

from danlu.monitor.base import Probe, ProbeContext, Series, Value, mean


class Loss(Probe):
    """`loss`: the task's mean loss over the step's targets; `loss/TERM`: what a technique added; the task's own
    readings by their names. Means over steps.

    `loss_max` is the largest of the task's losses since the last line; `chance_loss`, at the first step, is what
    guessing all classes or tokens alike costs: log C.
    """

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        own = {name.removeprefix("task/"): term for name, term in ctx.terms.items() if name.startswith("task/")}
        terms = {name: term for name, term in ctx.terms.items() if not name.startswith("task/")}
        found: dict[str, Value] = {name if name == "loss" else f"loss/{name}": term for name, term in terms.items()}
        chance = chance_loss(ctx.facts.model) if ctx.clock.step == 1 else None
        return found | own | ({} if chance is None else {"chance_loss": chance})

    def summarise(self, series: Series) -> Mapping[str, float]:
        means = {name: mean(values) for name, values in series.items()}
        return means | ({"loss_max": max(series["loss"])} if "loss" in series else {})


def chance_loss(model: nn.Module) -> float | None:
    """log C for a model that gives one of C classes or tokens; None for others, and where that is not known."""
    base = getattr(model, "get_base_model", lambda: model)()
    config, kind = getattr(base, "config", None), type(base).__name__
    if getattr(config, "problem_type", None) in ("regression", "multi_label_classification"):
        return None
    if "Classification" in kind:
        number = getattr(config, "num_labels", 0)
    else:
        texts = any(word in kind for word in ("CausalLM", "LMHead", "ConditionalGeneration"))
        number = getattr(config, "vocab_size", 0) if texts else 0
    return math.log(number) if number and number > 1 else None
