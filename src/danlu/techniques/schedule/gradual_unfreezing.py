"""Gradual unfreezing."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import nn

from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.optim.groups import plain_name
from danlu.techniques._surgery import depths


class Thaw(TechniqueState):
    """Parameter name → the share of the thawing after which it is trained; held, not saved."""

    def __init__(self, model: nn.Module) -> None:
        places = depths(model, where="techniques.gradual_unfreezing").items()
        self.moments = {plain_name(name): (top - depth) / top for name, (depth, top) in places}


class GradualUnfreezing(Technique):
    """Trains the head alone at first, then one more block after the other from the top down, the embeddings last.

        w of depth l is trained from progress p ≥ until · (L + 1 − l) / (L + 1)      (l as in `layer_decay`)

    Source: Howard & Ruder 2018, "Universal Language Model Fine-tuning", section 3.3, with equal shares of the budget
    for their epochs. The gradient of what is frozen is dropped before it is clipped, so that the optimiser passes it
    over: no step, no decay, no state. A pure function of the clock. Cost: none, but no time is saved either, since
    processes must exchange the same gradients at every step; `freeze` saves it.

    When not: in training from scratch; with adapters, which are small enough to be trained from the start.
    """

    state: ClassVar = "held"
    off: ClassVar[Mapping[str, object]] = {"until": 0.0}
    example: ClassVar[Mapping[str, object]] = {"until": 0.75}

    until: float = Field(default=0.5, ge=0.0, le=1.0)
    """the share of the budget after which everything is trained"""

    def start(self, model: nn.Module) -> Thaw:
        return Thaw(model)

    def on_grads(self, parameters: Sequence[nn.Parameter], ctx: StepContext, state: TechniqueState | None) -> None:
        assert isinstance(state, Thaw)
        for name, parameter in ctx.model.named_parameters():
            if self.until * state.moments[plain_name(name)] > ctx.clock.progress:
                parameter.grad = None
