"""Token dropout (word dropout)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.dials import Dial, constant
from danlu.core.errors import RequestError
from danlu.core.seeds import generator_of
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.techniques._surgery import input_embedding


class Vocabulary(TechniqueState):
    """How many tokens the model knows, and the special ones among them."""

    def __init__(self, model: nn.Module) -> None:
        table = input_embedding(model)
        self.size = table.num_embeddings if table is not None else 0
        self.special = torch.tensor(special_tokens(model), dtype=torch.long)


class TokenDropout(Technique):
    """Replaces some of the tokens that the model reads; those that it must predict stay.

        xₜ ← xₜ with probability 1 − p, else a token drawn evenly from the vocabulary (or the one that is given)

    Sources: Bowman et al. 2016, "Generating Sentences from a Continuous Space", section 3.1 (a fixed token);
    Xie et al. 2017, "Data Noising as Smoothing in Neural Network Language Models" (a drawn one). The special tokens
    that the model's config names are spared, and never drawn. What a row draws depends on seed, step and example, so
    that it is the same for any micro-batch and any number of processes. Dial: `token_dropout` (p). Cost: little.

    When not: where single tokens decide (code, numbers, names), or with p above some 0.2.
    """

    state: ClassVar = "held"
    off: ClassVar[Mapping[str, object]] = {"p": 0.0}
    example: ClassVar[Mapping[str, object]] = {"p": 0.3}

    p: float = Field(default=0.1, ge=0.0, lt=1.0)
    """the chance of a token to be replaced"""
    replacement: Literal["random"] | int = "random"
    """what it is replaced with: a token drawn from the vocabulary, or the token of this number"""

    def dials(self) -> Sequence[Dial]:
        return (constant("token_dropout", self.p, high=1.0),)

    def on_model(self, model: nn.Module) -> nn.Module:
        if input_embedding(model) is None:
            raise RequestError("this model reads no tokens", where="techniques.token_dropout", mend="Remove it")
        return model

    def start(self, model: nn.Module) -> Vocabulary:
        return Vocabulary(model)

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        assert isinstance(state, Vocabulary)
        p, rows = ctx.dial("token_dropout"), batch.inputs.get("input_ids")
        if p == 0.0 or rows is None:
            return batch
        drawn = [
            self._noised(row, p, state, generator_of(ctx.seed, "token_dropout", ctx.clock.step, example))
            for row, example in zip(rows, batch.example_ids_B.tolist(), strict=True)
        ]
        noised = torch.stack(drawn) if isinstance(rows, Tensor) else tuple(drawn)
        return batch.replace(inputs={**batch.inputs, "input_ids": noised})

    def _noised(self, row_T: Tensor, p: float, known: Vocabulary, generator: torch.Generator) -> Tensor:
        tokens_T = row_T.cpu()
        # place by place, so that what a token draws does not depend on the padding behind it
        draws_T2 = torch.rand((*tokens_T.shape, 2), generator=generator, dtype=torch.float64)
        chosen_T = (draws_T2[..., 0] < p) & ~torch.isin(tokens_T, known.special)
        if self.replacement == "random":
            drawn_T = (draws_T2[..., 1] * known.size).to(tokens_T.dtype)
            chosen_T &= ~torch.isin(drawn_T, known.special)
        else:
            drawn_T = torch.full_like(tokens_T, self.replacement)
        return torch.where(chosen_T, drawn_T, tokens_T).to(row_T.device)


def special_tokens(model: nn.Module) -> list[int]:
    """The numbers of all tokens that the model's config gives a role (`bos_token_id`, `pad_token_id`, …)."""
    config = getattr(model, "config", None)
    found: set[int] = set()
    for name, value in (config.to_dict() if config is not None else {}).items():
        if name.endswith("_token_id"):
            found.update(number for number in (value if isinstance(value, list) else [value]) if number is not None)
    return sorted(found)
