"""Distillation of attention maps."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.dials import Dial, constant
from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.core.technique import Extra, Setting, StepContext, Technique, TechniqueState
from danlu.maths.distillation import attention_distance
from danlu.techniques.distil._layers import Layers, layer_pairs, position_weights, stack_of
from danlu.techniques.distil._teacher import Teacher, make_teacher, show_attention

WHERE = "techniques.distil_attention"


class DistilAttention(Technique):
    """Trains a student to look where a teacher looks: its attention maps are pulled to those of the teacher's.

        L = task loss + α Σ_t 1/|P| Σ_(m, n) in P 1/H Σ_h KL(a_n,h,t ‖ b_m,h,t)

    a are the teacher's and b the student's weights of query t over all keys, P the pairs of layers, h the heads, t the
    targets (of classifiers, the row's mean over what is no padding). Sources: Wang et al. 2020, "MiniLM", equation 6
    (the last layers, KL); Jiao et al. 2020, "TinyBERT", equation 6 (uniform layers, mse; here on the weights, not on
    the scores before the softmax). No widths need agree, so nothing is projected. Of an encoder-decoder, the decoder's
    attention to itself. The dial `distil_attention` is α. Cost: both models run torch's plain attention, which alone
    shows its weights: T × S numbers a head and layer, and slower steps on long rows; and a forward of the teacher.

    When not: long contexts; models without attention maps (state spaces, linear attention). With attention dropout the
    maps shown have holes: use mse, or `dropout: {attention: false}`.
    """

    state: ClassVar = "held"
    off: ClassVar[Mapping[str, object]] = {"weight": 0.0}
    example: ClassVar[Mapping[str, object]] = {"weight": 5.0}

    teacher: str = "start"
    """a run's folder, a model's folder, a .gguf file or a hub name; start is the student before its first step"""
    weight: float = Field(default=1.0, ge=0.0)
    """α, how much the teacher counts"""
    layers: Layers = "last"
    """last is the last layer alone, uniform spreads the teacher's over the student's; or {student's: teacher's, ...}"""
    heads: Literal["each", "mean"] = "each"
    """each head learns from the teacher's of its number; mean compares the means over heads, however many there are"""
    distance: Literal["kl", "mse"] = "kl"
    """kl as in MiniLM, mse as in TinyBERT"""

    def dials(self) -> Sequence[Dial]:
        return (constant("distil_attention", self.weight),)

    def needs(self) -> Sequence[Extra]:
        return ("attentions",) if self.weight else ()

    def on_model(self, model: nn.Module) -> nn.Module:
        if self.weight:
            show_attention(model, WHERE)
        return model

    def start_in(self, setting: Setting, model: nn.Module) -> Teacher | None:
        return make_teacher(self.teacher, model, setting, where=WHERE, eager=True) if self.weight else None

    def loss_terms(
        self, outputs: Outputs, batch: Batch, ctx: StepContext, state: TechniqueState | None
    ) -> Mapping[str, Tensor]:
        if state is None:
            return {}
        assert isinstance(state, Teacher)
        ours = stack_of(outputs, "attentions", WHERE)
        theirs = stack_of(state.outputs(outputs, self.needs()), "attentions", f"{WHERE}.teacher")
        distances = []
        for one, other in layer_pairs(self.layers, len(ours), len(theirs), first=1, where=WHERE):
            student_BHTS, teacher_BHTS = self._heads(ours[one - 1]), self._heads(theirs[other - 1])
            if student_BHTS.shape != teacher_BHTS.shape:
                raise _differ(student_BHTS, teacher_BHTS)
            distances.append(attention_distance(student_BHTS, teacher_BHTS, self.distance))
        apart_BT = torch.stack(distances).mean(0)
        weights_BT = position_weights(batch, apart_BT.shape)
        return {"distil_attention": ctx.dial("distil_attention") * (apart_BT * weights_BT).sum()}

    def _heads(self, map_BHTS: Tensor) -> Tensor:
        return map_BHTS.mean(1, keepdim=True) if self.heads == "mean" else map_BHTS


def _differ(ours: Tensor, theirs: Tensor) -> RequestError:
    if ours.shape[1] != theirs.shape[1]:
        problem = f"the teacher has {theirs.shape[1]} heads, the student {ours.shape[1]}"
        return RequestError(problem, where=f"{WHERE}.heads", mend="Set it to mean")
    return RequestError("teacher and student cut their input differently", where=WHERE, mend="Use distil_logits")
