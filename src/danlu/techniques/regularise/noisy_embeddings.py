"""Noisy embeddings (NEFTune)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.action import Action
from danlu.core.dials import Dial, constant
from danlu.core.errors import RequestError
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.techniques._surgery import Extended, extend, input_embedding


class Noisy(nn.Module):
    """An embedding that adds uniform noise of reach `noise_alpha` / sqrt(T D) to what it gives, in training."""

    noise_alpha: float = 0.0

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden_BTD: Tensor = super().forward(tokens_BT)
        if not self.training or self.noise_alpha == 0.0:
            return hidden_BTD
        reach = self.noise_alpha / (hidden_BTD.shape[-2] * hidden_BTD.shape[-1]) ** 0.5
        return hidden_BTD + torch.empty_like(hidden_BTD).uniform_(-reach, reach)


class NoisyEmbeddings(Technique):
    """Adds uniform noise to the input embeddings while fine-tuning.

        e ← e + (α / √(T D)) · U(−1, 1)      T tokens in a row, D the model's width

    Source: Jain et al. 2023, "NEFTune: Noisy Embeddings Improve Instruction Finetuning", algorithm 1; α of 5, 10 or
    15. T is the length of the row as it enters the model, padding and packed neighbours included. It is turned by
    the dial `noisy_embeddings` (α); in evaluation and in the exported model it is off. Cost: one random number per
    embedding entry.

    When not: in pre-training from scratch; the gain was seen in instruction tuning on small sets.
    """

    state: ClassVar = "held"
    random_in_forward: ClassVar[bool] = True
    off: ClassVar[Mapping[str, object]] = {"alpha": 0.0}
    example: ClassVar[Mapping[str, object]] = {"alpha": 5.0}

    alpha: float = Field(default=5.0, ge=0.0)
    """how strong the noise is"""

    def dials(self) -> Sequence[Dial]:
        return (constant("noisy_embeddings", self.alpha),)

    def on_model(self, model: nn.Module) -> nn.Module:
        table = input_embedding(model)
        if table is None:
            raise RequestError(
                "this model has no table of input embeddings to add noise to",
                where="techniques.noisy_embeddings",
                mend="Remove it; token_dropout and dropout work on more models",
            )
        extend(table, Noisy)
        return model

    def start(self, model: nn.Module) -> Extended:
        return Extended(model, Noisy)

    def before_step(self, ctx: StepContext, state: TechniqueState | None) -> Sequence[Action]:
        assert isinstance(state, Extended)
        for module in state.modules:
            module.noise_alpha = ctx.dial("noisy_embeddings")  # type: ignore[assignment]
        return ()
