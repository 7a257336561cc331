"""Recommendation: what a user chooses next, or how a user rates an item, learnt from who chose what and when."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor, nn

from danlu.core.batch import IGNORED, Batch
from danlu.core.config import read_options
from danlu.core.errors import DataError, RequestError, nearest
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.examples import ExampleSet
from danlu.data.histories import MOST_LEVELS, HeldOut, ItemVocabulary, Objective, Sequences, Windows
from danlu.data.interactions import (
    Interactions,
    first_row_of,
    interaction_columns,
    k_core,
    read_interactions,
    read_titles,
)
from danlu.data.rows import BadRow
from danlu.data.sources import Source, open_source
from danlu.data.tokenizers import load_tokenizer
from danlu.models.forward import Forward
from danlu.models.writing import context_of
from danlu.tasks._recommendation_metrics import RankingEvaluator, RatingEvaluator, best_items, expected_ratings
from danlu.tasks._recommendation_rows import Past, RecommendationOptions, asked_example, told_list, unknown_item
from danlu.tasks.base import Evaluator, Example, Prepared, Task, Tools, shape_of
from danlu.tasks.text_generation import token_loss

BATCH_ROWS = 64
HELD_OUT = 2
"""the last item of a user is for the test, the one before it for validation"""
_DEFAULT_VALID = DataConfig.model_fields["valid"].default


class Recommendation(Task):
    """Ranks all items by how likely a user chooses each next; or predicts a user's rating of an item.

        next     loss = -Σ_t log p(item_t+1 | items up to t)            (SASRec, Kang and McAuley 2018; HSTU)
        masked   loss = -Σ_hidden log p(item | the others)               (BERT4Rec, Sun et al. 2019)
        rating   loss = -Σ_t log p(rating_t | items up to t, ratings before t)

    All with the softmax over the whole vocabulary. Leave-one-out: each user's last item is the test, the one before
    it the validation, the rest trains.
    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    taught: ClassVar[tuple[str, ...]] = ("context", "columns")

    objective: Objective = "next"
    """what is learnt: the next item, masked items (with an encoder such as bert), or ratings"""
    core: int = Field(default=1, ge=1)
    """only users and items with at least this many interactions, dropped in turn until all have (k-core)"""
    items: str | None = None
    """a table of items with their titles, for lists that a person can read"""
    stride: int | None = Field(default=None, ge=1)
    """places from one stretch of a long history to the next; the context when absent, so that none overlap"""
    mask: float = Field(default=0.2, gt=0.0, lt=1.0)
    """share of the items that are hidden, where the objective is masked"""
    copies: int = Field(default=10, ge=1)
    """how often an epoch shows a history, each time with other items hidden, where the objective is masked"""
    k: tuple[int, ...] = (5, 10, 20)
    """lengths of list at which HR, NDCG and MRR are measured"""
    top: int = Field(default=10, ge=1)
    """items of a list that is recommended: of a prediction, for coverage, popularity and the tables"""
    judge: str = "auto"
    """the metric that says which evaluation is best; auto: ndcg@10_unseen, or rmse for ratings"""
    num_samples: int = Field(default=3, ge=0)
    """how many users' lists to show before and after training"""

    _known: "_Known" = PrivateAttr(default_factory=lambda: _Known())

    @field_validator("k")
    @classmethod
    def _rising(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if not k or sorted(set(k)) != list(k) or k[0] < 1:
            raise ValueError("give lengths from 1 on, in rising order")
        return k

    @property
    def model_class(self) -> str:
        """A masked language model's class for masked items, which are read in both directions."""
        return "AutoModelForMaskedLM" if self.objective == "masked" else self.auto_class

    @property
    def judged(self) -> str:
        """The metric named by `judge`."""
        if self.judge != "auto":
            return self.judge
        return "rmse" if self.objective == "rating" else f"ndcg@{10 if 10 in self.k else self.k[0]}_unseen"

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Lower for errors, higher for ranks."""
        return "lower" if self.judged in ("loss", "rmse", "mae") or self.judged.startswith("popularity") else "higher"

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """The columns of user, item, and where there are any time and rating."""
        if data.format not in ("auto", "text"):
            problem = f"{self.kind()} reads a table of users and items, not {data.format}"
            raise RequestError(problem, where="data.format", mend="Leave it out")
        needed = ("user", "item", "rating") if self.objective == "rating" else ("user", "item")
        return interaction_columns(fields, data.columns, where, needed=needed)

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Reads the table, filters it, numbers the items, and cuts histories into stretches."""
        self._check(data)
        say(f"reading {', '.join(data.train_sources)}")
        source = open_source(data.train_sources, cache=data.cache)
        skipped: list[Mapping[str, object]] = []
        found = self._read(source, data, lambda bad: skipped.append(bad.listed()))
        vocabulary = self._number(found, data) if base is None else ItemVocabulary.of(load_tokenizer(base))
        sequences = self._sequences(found, vocabulary, source, data)
        cut: dict[str, Any] = {"context": data.context, "held_out": HELD_OUT}
        if self.objective == "masked":
            cut |= {"copies": self.copies, "mask": self.mask, "seed": seed}
        train = Windows.over(sequences, self.objective, stride=self.stride or data.context, **cut)
        valid = HeldOut.last(sequences, self.objective, context=data.context, back=1, least=HELD_OUT + 1)
        self._known.vocabulary = vocabulary
        specials = {"pad_token_id": 0, "mask_token_id": 1}
        return Prepared(
            train=train,
            valid=valid,
            tools=vocabulary.tokenizer(),
            context=data.context,
            padded=True,
            vocab_size=vocabulary.size,
            special_tokens=specials,
            facts={
                "users": len(found.users),
                "items": len(vocabulary.items),
                "interactions": len(found),
                "train_examples": len(train),
                "train_tokens": int(train.lengths.sum()),
                "valid_examples": len(valid),
                "skipped_rows": len(skipped),
                "vocab_size": vocabulary.size,
            },
            skipped=skipped[:1000],
            found={"format": "text"},
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """The last item of each user in the table `source`, from all before it."""
        opened = open_source(source, cache=data.cache)
        vocabulary = self._known.vocabulary = ItemVocabulary.of(tools)
        sequences = self._sequences(self._read(opened, data, lambda _bad: None), vocabulary, opened, data)
        return HeldOut.last(sequences, self.objective, context=data.context, back=0, least=2)

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """`labels["tokens"]` (B, T) holds at t the token to predict there, or -100; held-out rows also have `seen`.

        Padding comes last, where no earlier place of a decoder sees it; an encoder gets a mask.
        """
        longest = max(len(example["input_ids"]) for example in examples)
        labels: dict[str, Any] = {"tokens": _stack(examples, "labels", longest, IGNORED)}
        if "seen" in examples[0]:
            labels["seen"] = tuple(torch.from_numpy(example["seen"].astype(np.int64)) for example in examples)
        if "rating" in examples[0]:
            labels["ratings"] = torch.tensor([float(example["rating"]) for example in examples])
        return Batch(
            inputs=self._inputs(examples),
            labels=labels,
            example_ids_B=ids_B,
            targets_B=(labels["tokens"] != IGNORED).sum(1),
            tokens_B=torch.tensor([len(example["input_ids"]) for example in examples]),
        )

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """Summed cross-entropy over all items, fused with the head unless somebody has made the logits."""
        return token_loss(outputs, batch, **shape_of(ctx))

    def evaluator(self) -> Evaluator:
        """Full ranking of the held-out item, or the error of its rating."""
        vocabulary = self._known.vocabulary
        assert vocabulary is not None, "the data must be prepared first"
        if self.objective == "rating":
            return RatingEvaluator(vocabulary)
        return RankingEvaluator(vocabulary, ks=self.k, top=self.top)

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """Some users' last items and the list that the model makes of them."""
        if self.objective == "rating":
            return []
        vocabulary = ItemVocabulary.of(data.tools)
        places = np.linspace(0, len(data.valid) - 1, num=min(self.num_samples, len(data.valid)), dtype=int)
        samples = []
        for example in (data.valid[int(at)] for at in dict.fromkeys(places.tolist())):
            seen = torch.from_numpy(example["seen"].astype(np.int64))
            best_BK, _ = best_items(self._scores(Forward(model), [example]), vocabulary, [seen], self.top)
            titles = [vocabulary.title(token) for token in best_BK[0].tolist()]
            truth = vocabulary.title(int(example["labels"][-1]))
            last = [vocabulary.title(int(token)) for token in example["seen"][-5:]]
            samples.append({"prompt": " → ".join(last), "text": f"\n→ {', '.join(titles)}", "truth": truth})
        return samples

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """For each row's `history` the best items and their `scores`; for ratings that of the row's `item`."""
        asked = read_options(RecommendationOptions, {"top": self.top, **options})
        vocabulary, forward, drawn = ItemVocabulary.of(tools), Forward(model), iter(rows)
        past, context = Past(asked, vocabulary), min(context_of(model) or asked.context, asked.context)
        while True:
            examples = [
                asked_example(past.completed(fields), vocabulary, objective=self.objective, context=context)
                for fields in islice(drawn, BATCH_ROWS)
            ]
            if not examples:
                return
            scores_BV = self._scores(forward, examples)
            if self.objective == "rating":
                yield from (
                    {"prediction": round(rating, 4)} for rating in expected_ratings(scores_BV, vocabulary).tolist()
                )
                continue
            seen = [torch.from_numpy(example["seen"][: None if not asked.repeat else 0]) for example in examples]
            best = best_items(scores_BV, vocabulary, seen, asked.top)
            for tokens_K, scores_K in zip(*(part.tolist() for part in best), strict=True):
                yield told_list(tokens_K, scores_K, vocabulary)

    def _check(self, data: DataConfig) -> None:
        if data.valid != _DEFAULT_VALID:
            problem = "the item before each user's last one is the validation data; there is no other"
            raise RequestError(problem, where="data.valid", mend="Leave it out")
        known = ["loss", "rmse", "mae"] if self.objective == "rating" else ["loss", *self._ranking_metrics()]
        if self.judged not in known:
            problem = f"there is no metric {self.judge!r} where the objective is {self.objective}"
            raise RequestError(problem, where="task.judge", mend=nearest(self.judge, known))

    def _ranking_metrics(self) -> list[str]:
        names = [f"{name}@{k}{rule}" for rule in ("", "_unseen") for k in self.k for name in ("hr", "ndcg", "mrr")]
        return [*names, f"coverage@{self.top}", f"popularity@{self.top}"]

    def _read(self, source: Source, data: DataConfig, skip: Callable[[BadRow], None]) -> Interactions:
        columns = self.columns(source.peek()[0].fields, data, source.spec)
        found = k_core(read_interactions(source, columns, data, skip=skip), self.core)
        if not len(found):
            problem = f"no user and item have {self.core} interactions each"
            raise DataError(problem, where=source.spec, mend="Lower task.core")
        return found

    def _number(self, found: Interactions, data: DataConfig) -> ItemVocabulary:
        """The items by how often the training part holds them, and the levels of the ratings."""
        places_from_end_N = found.starts()[1:][found.users_N] - 1 - np.arange(len(found))
        counts_I = np.bincount(found.items_N[places_from_end_N >= HELD_OUT], minlength=len(found.items))
        order_I = np.argsort(-counts_I, kind="stable")
        levels: list[float] = []
        if self.objective == "rating":
            assert found.ratings_N is not None
            levels = [float(level) for level in np.unique(found.ratings_N)]
        if len(levels) > MOST_LEVELS:
            problem = f"the ratings have {len(levels)} different values, more than the {MOST_LEVELS} that fit"
            raise DataError(problem, where=", ".join(data.train_sources), mend="Round them to fewer levels")
        titles = read_titles(open_source(self.items, cache=data.cache), data.columns) if self.items else {}
        names = [found.items[at] for at in order_I]
        return ItemVocabulary(
            items=tuple(names),
            counts=tuple(counts_I[order_I].tolist()),
            levels=tuple(levels),
            titles={name: titles[name] for name in names if name in titles},
        )

    def _sequences(
        self, found: Interactions, vocabulary: ItemVocabulary, source: Source, data: DataConfig
    ) -> Sequences:
        """In the vocabulary's tokens.

        Raises:
            DataError: an item that the model does not know, with its file and row.
        """
        unknown = [name for name in found.items if name not in vocabulary.tokens]
        if unknown and data.on_bad != "skip":
            column = self.columns(source.peek()[0].fields, data, source.spec)["item"]
            row = first_row_of(source, column, unknown[0])
            raise unknown_item(column, unknown[0], vocabulary).in_row(row).error()
        if unknown:
            known_I = np.array([name in vocabulary.tokens for name in found.items])
            found = found.kept(known_I[found.items_N])
        return Sequences.of(found, vocabulary, rated=self.objective == "rating")

    def _inputs(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        inputs = {"input_ids": _stack(examples, "input_ids", longest, 0)}
        if all("timestamps" in example for example in examples):
            inputs["timestamps"] = _stack(examples, "timestamps", longest, 0)
        if self.objective == "masked":
            inputs["attention_mask"] = (inputs["input_ids"] != 0).to(torch.int64)
        return inputs

    @torch.no_grad()
    def _scores(self, forward: Forward, examples: Sequence[Example]) -> Tensor:
        """(B, V) for the last place of each example, on the CPU; the model is left in the mode that it was in."""
        was_training, device = forward.model.training, next(forward.model.parameters()).device
        forward.model.eval()
        try:
            inputs = {name: tensor.to(device) for name, tensor in self._inputs(examples).items()}
            logits_BTV = forward(inputs).logits
        finally:
            forward.model.train(was_training)
        last_B = torch.tensor([len(example["input_ids"]) - 1 for example in examples])
        return logits_BTV.float().cpu()[torch.arange(len(examples)), last_B]


@dataclasses.dataclass
class _Known:
    """What the data taught; no part of what the task is, so that two tasks with equal options are equal."""

    vocabulary: ItemVocabulary | None = dataclasses.field(default=None, compare=False)


def _stack(examples: Sequence[Example], name: str, longest: int, filling: int) -> Tensor:
    """Rows of one field, (B, T), padding last."""
    rows_BT = torch.full((len(examples), longest), filling, dtype=torch.int64)
    for row_T, example in zip(rows_BT, examples, strict=True):
        row_T[: len(example[name])] = torch.from_numpy(np.asarray(example[name], dtype=np.int64))
    return rows_BT
