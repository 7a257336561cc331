"""Distillation of hidden states."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.dials import Dial, constant
from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.core.seeds import seed_of
from danlu.core.technique import Extra, Setting, StepContext, Technique, TechniqueState
from danlu.maths.distillation import hidden_distance
from danlu.models.save import config_of, model_place
from danlu.techniques.distil._layers import Layers, layer_pairs, position_weights, stack_of
from danlu.techniques.distil._teacher import START, Teacher, make_teacher

WHERE = "techniques.distil_hidden"
PROJECTION = "distil_projection"
"""the name under which the model holds the projection while it trains"""


class DistilHidden(Technique):
    """Trains a student's layers to give the hidden states of some of a teacher's layers.

        L = task loss + α Σ_t 1/|P| Σ_(m, n) in P d(W h_m,t, g_n,t),    d(a, b) = 1/D Σ_d (a_d − b_d)²

    h are the student's states and g the teacher's, P the pairs of layers, t the targets (of classifiers, the row's mean
    over what is no padding). Sources: Romero et al. 2015, "FitNets", equation 3; Jiao et al. 2020, "TinyBERT", equation
    7. W (one for all layers, as TinyBERT writes it) is there where the widths differ: it is trained and checkpointed
    with the model and left out of what is evaluated and exported. Of an encoder-decoder, the decoder's states. The
    dial `distil_hidden` is α. Cost: the teacher's weights and a forward of it a step, both networks' hidden states, W.

    When not: teacher and student cut their input differently (other tokenizers or patches), or share nothing in how
    they work; then distil_logits is safer. Late in training: anneal the dial, for the task is not to be like a teacher.
    """

    after: ClassVar[tuple[str, ...]] = ("ema", "swa")  # which export their averages of the projection, too
    state: ClassVar = "held"
    off: ClassVar[Mapping[str, object]] = {"weight": 0.0}
    example: ClassVar[Mapping[str, object]] = {"weight": 2.0}

    teacher: str = "start"
    """a run's folder, a model's folder, a .gguf file or a hub name; start is the student before its first step"""
    weight: float = Field(default=1.0, ge=0.0)
    """α, how much the teacher counts"""
    layers: Layers = "uniform"
    """uniform spreads the teacher's over the student's, last is the last layer alone; or {student's: teacher's, ...}"""
    distance: Literal["mse", "cosine"] = "mse"
    """cosine leaves the length of the states free"""

    def dials(self) -> Sequence[Dial]:
        return (constant("distil_hidden", self.weight),)

    def needs(self) -> Sequence[Extra]:
        return ("hidden_states",) if self.weight else ()

    def on_model(self, model: nn.Module) -> nn.Module:
        if self.weight == 0.0 or self.teacher == START:
            return model
        ours, theirs = _width(cast(Any, model).config), _width(config_of(model_place(self.teacher)))
        if ours != theirs:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of("distil_hidden"))
                model.add_module(PROJECTION, nn.Linear(ours, theirs, bias=False))
        return model

    def start_in(self, setting: Setting, model: nn.Module) -> Teacher | None:
        return make_teacher(self.teacher, model, setting, where=WHERE) if self.weight else None

    def loss_terms(
        self, outputs: Outputs, batch: Batch, ctx: StepContext, state: TechniqueState | None
    ) -> Mapping[str, Tensor]:
        if state is None:
            return {}
        assert isinstance(state, Teacher)
        ours = stack_of(outputs, "hidden_states", WHERE)
        theirs = stack_of(state.outputs(outputs, self.needs()), "hidden_states", f"{WHERE}.teacher")
        project = getattr(ctx.model, PROJECTION, nn.Identity())
        pairs = layer_pairs(self.layers, len(ours) - 1, len(theirs) - 1, first=0, where=WHERE)
        distances = []
        for one, other in pairs:
            given_BTD, wanted_BTD = project(ours[one]), theirs[other]
            if given_BTD.ndim != 3 or given_BTD.shape != wanted_BTD.shape:
                shapes = f"{tuple(wanted_BTD.shape[1:])} against {tuple(given_BTD.shape[1:])}"
                problem = (
                    f"the teacher's layer {other} and the student's layer {one} cut their input differently ({shapes})"
                )
                raise RequestError(problem, where=WHERE, mend="Use distil_logits")
            distances.append(hidden_distance(given_BTD, wanted_BTD, self.distance))
        apart_BT = torch.stack(distances).mean(0)
        return {"distil_hidden": ctx.dial("distil_hidden") * (apart_BT * position_weights(batch, apart_BT.shape)).sum()}

    @contextlib.contextmanager
    def on_export(self, model: nn.Module, state: TechniqueState | None) -> Iterator[nn.Module]:
        projection = model._modules.pop(PROJECTION, None)
        try:
            yield model
        finally:
            if projection is not None:
                model.add_module(PROJECTION, projection)


def _width(config: Any) -> int:
    text = config.get_text_config()
    width = getattr(text, "hidden_size", None) or getattr(text, "d_model", None)
    if not isinstance(width, int):
        problem = f"the family {config.model_type} has no one width of its hidden states"
        raise RequestError(problem, where=WHERE, mend="Use distil_logits")
    return width
