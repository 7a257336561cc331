"""Evaluation of translations: the loss of every row, and what the model writes for those that are to be judged."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.errors import DataError
from danlu.core.outputs import Outputs
from danlu.models.translating import translated_ids
from danlu.tasks import _translation_scores as scores
from danlu.tasks._own_metrics import OwnMetric, measured
from danlu.tasks._translation_scores import Translated
from danlu.tasks.base import Evaluator
from danlu.tasks.text_generation import token_loss


class TranslationEvaluator(Evaluator):
    """Loss in nats a target token, perplexity = e^loss, and sacrebleu's scores of the rows marked `judged`.

    The model writes them during the evaluation, each process its own rows. They are kept as texts.
    """

    asks_model: ClassVar[bool] = True

    def __init__(
        self,
        tokenizer: Any,
        *,
        beams: int,
        first: int | None,
        limit: int,
        tokenize: scores.Tokenize,
        own: Mapping[str, OwnMetric],
    ) -> None:
        self.tokenizer, self.beams, self.first, self.limit = tokenizer, beams, first, limit
        self.tokenize, self.own = tokenize, own
        self.nats = 0.0
        self.num_tokens = 0
        self.rows: list[Translated] = []

    def update(self, outputs: Outputs, batch: Batch) -> None:
        counted_B = torch.ones_like(batch.targets_B) if batch.weights_B is None else batch.weights_B != 0
        self.nats += float(token_loss(outputs, batch).detach())
        self.num_tokens += int((batch.targets_B * counted_B).sum())
        judged_B = cast(Tensor, batch.labels["judged"]) & (counted_B != 0)
        places = judged_B.nonzero().flatten().tolist()
        if not places:
            return
        assert outputs.model is not None
        mask_BT = cast(Tensor, batch.inputs["attention_mask"])[judged_B]
        longest = int(mask_BT.sum(1).max())
        inputs = {"input_ids": cast(Tensor, batch.inputs["input_ids"])[judged_B], "attention_mask": mask_BT}
        inputs = {name: tensor[:, :longest] for name, tensor in inputs.items()}
        written = translated_ids(outputs.model, inputs, beams=self.beams, first=self.first, limit=self.limit)
        for at, source, ids in zip(places, inputs["input_ids"], written, strict=True):
            self.rows.append(
                Translated(
                    row=int(batch.example_ids_B[at]),
                    num_tokens=int(cast(Tensor, batch.inputs["attention_mask"])[at].sum()),
                    source=text_of(self.tokenizer, source.tolist()),
                    text=text_of(self.tokenizer, ids),
                    reference=bytes(batch.labels["references"][at].tolist()).decode(),
                )
            )

    def state(self) -> object:
        return self.nats, self.num_tokens, self.rows

    def absorb(self, state: object) -> None:
        assert isinstance(state, tuple)
        self.nats += state[0]
        self.num_tokens += state[1]
        self.rows = sorted([*self.rows, *state[2]])

    def result(self) -> dict[str, float]:
        loss = self.nats / max(self.num_tokens, 1)
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if self.rows:
            texts = ([row.text for row in self.rows], [row.reference for row in self.rows])
            found |= scores.corpus_scores(self.rows, self.tokenize)
            found |= measured(self.own, *texts, [row.source for row in self.rows])
        return found

    def tables(self) -> dict[str, object]:
        return scores.translation_tables(sorted(self.rows), self.tokenize) if self.rows else {}

    def compare(self, other: Evaluator) -> dict[str, Mapping[str, float]]:
        """By paired bootstrap over the rows that both translated."""
        assert isinstance(other, TranslationEvaluator)
        ours, theirs = sorted(self.rows), sorted(other.rows)
        if [row.reference for row in ours] != [row.reference for row in theirs]:
            problem = "the two models did not translate the same rows"
            raise DataError(problem, where="--against", mend="Both must read the same columns of the same data")
        return scores.paired_bootstrap(ours, theirs, self.tokenize)


def text_of(tokenizer: Any, ids: list[int]) -> str:
    """What tokens say, special ones left out."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def padded(rows: list[Any], filling: int) -> Tensor:
    """(B, T) int64, each row filled up at its end."""
    rows_BT = torch.full((len(rows), max(map(len, rows))), filling, dtype=torch.int64)
    for row_T, values in zip(rows_BT, rows, strict=True):
        row_T[: len(values)] = torch.as_tensor(values, dtype=torch.int64)
    return rows_BT
