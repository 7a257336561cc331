"""Sequence-length warm-up."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from danlu.core.batch import IGNORED, Batch
from danlu.core.batch import Field as BatchField
from danlu.core.dials import Dial
from danlu.core.errors import RequestError
from danlu.core.technique import Setting, StepContext, Technique, TechniqueState

_WHERE = "techniques.length_warmup"
_MULTIPLE = 8


class Context(TechniqueState):
    """The length at which nothing is cut any more; held, not saved."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens


class LengthWarmup(Technique):
    """Begins with short rows: cuts each to a length that grows to that of the longest.

        T(p) = begin + (longest − begin) · p / over,  down to a multiple of 8;   rows whole from p ≥ over

    Source: Li, Zhang & He 2022, "The Stability-Efficiency Dilemma: Investigating Sequence Length Warmup for Training
    GPT Models", section 4 (rows are truncated; linear pacing). What is cut off is no target, so the loss stays the
    mean over the valid targets of the step. The dial `length_share` runs from 0 to 1. For tasks whose targets lie along
    the text (text generation, recommendation). Cost: none; short rows are quicker, attention above all. What is cut
    off is not seen in that epoch.

    When not: where the end of a row carries the target (an answer after a prompt, a next item), or data is seen once
    and dear.
    """

    state: ClassVar = "held"
    off: ClassVar[Mapping[str, object]] = {"over": 0.0}
    example: ClassVar[Mapping[str, object]] = {"begin": 4, "over": 0.75}

    begin: int = Field(default=64, ge=2)
    """tokens of a row at first"""
    over: float = Field(default=0.2, ge=0.0, le=1.0)
    """the share of the budget over which rows grow"""

    def dials(self) -> Sequence[Dial]:
        def grown(progress: float) -> float:
            return 1.0 if progress >= self.over else progress / self.over

        return (Dial(name="length_share", schedule=lambda clock: grown(clock.progress), high=1.0),)

    def on_model(self, model: nn.Module) -> nn.Module:
        config, head = getattr(model, "config", None), getattr(model, "get_output_embeddings", lambda: None)()
        if head is None or getattr(config, "is_encoder_decoder", False):
            raise RequestError("this model's targets do not lie along one text", where=_WHERE, mend="Remove it")
        return model

    def start_in(self, setting: Setting, model: nn.Module) -> Context:
        return Context(int(setting.lengths_N.max()))

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        assert isinstance(state, Context)
        share, tokens_BT = ctx.dial("length_share"), batch.inputs.get("input_ids")
        length = int(self.begin + (state.tokens - self.begin) * share)
        length = max(self.begin, length // _MULTIPLE * _MULTIPLE)
        if share >= 1.0 or not isinstance(tokens_BT, Tensor) or tokens_BT.shape[1] <= length:
            return batch
        return shortened(batch, tokens_BT.shape[1], length)


def shortened(batch: Batch, width: int, length: int) -> Batch:
    """The batch with every field that lies along the text, (B, width, ...), cut to `length`.

    Raises:
        RequestError: no label lies along the text.
    """

    def cut(field: BatchField) -> BatchField:
        if isinstance(field, Tensor) and field.ndim >= 2 and field.shape[1] == width:
            return field[:, :length]
        return field

    labels_BT = batch.labels.get("tokens")
    if not isinstance(labels_BT, Tensor) or labels_BT.shape[1:] != (width,):
        raise RequestError("this task's targets do not lie along the text", where=_WHERE, mend="Remove it")
    return batch.replace(
        inputs={name: cut(field) for name, field in batch.inputs.items()},
        labels={name: cut(field) for name, field in batch.labels.items()},
        targets_B=batch.targets_B - (labels_BT[:, length:] != IGNORED).sum(1),
        tokens_B=batch.tokens_B.clamp(max=length),
    )
