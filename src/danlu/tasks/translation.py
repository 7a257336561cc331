"""Translation: a text in, a text out, by an encoder-decoder."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from danlu.core.batch import IGNORED, Batch
from danlu.core.config import Config, read_options
from danlu.core.errors import RequestError, nearest
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.data.cache import encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.examples import Examples, ExampleSet
from danlu.data.pairs import AsTarget, PairEncoder, Pairs, pair_columns, pair_texts
from danlu.data.sources import open_source
from danlu.data.split import split_source
from danlu.data.text import Codec
from danlu.data.tokenizers import special_tokens
from danlu.models.translating import start_of, translated_ids
from danlu.models.writing import context_of
from danlu.tasks import _translation_scores as scores
from danlu.tasks._own_metrics import own_metrics
from danlu.tasks._prepared_text import tokenizer_for
from danlu.tasks._translation_evaluator import TranslationEvaluator, padded, text_of
from danlu.tasks.base import Evaluator, Example, Prepared, Task, Tools, shape_of
from danlu.tasks.text_generation import token_loss

BATCH_ROWS = 32
CHUNK_BATCHES = 8
SAMPLE_CHARACTERS = 400


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Known:
    """What a task finds out on its way; no part of what it is, so that two tasks of the same options are equal."""

    tokenizer: Tools = dataclasses.field(default=None, compare=False)
    context: int = dataclasses.field(default=512, compare=False)
    pad_id: int = dataclasses.field(default=0, compare=False)
    start_id: int = dataclasses.field(default=0, compare=False)
    first_id: int | None = dataclasses.field(default=None, compare=False)
    """the token that every target begins with, such as the mark of its language"""


class Translation(Task):
    """Writes a text's translation, or whatever else a text is to be turned into: a summary, a correction.

    loss = -Σ_t log p(y_t | y_<t, x), over the target's tokens and its end.
    """

    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    taught: ClassVar[tuple[str, ...]] = ("columns", "context", "long")

    prefix: str = ""
    """what stands before every source, such as T5's "translate English to German: " """
    source_language: str | None = None
    """the tokenizer's own name of it, for models of many languages: en, en_XX, eng_Latn"""
    target_language: str | None = None
    """the same of what is to be written"""
    beams: int = Field(default=1, ge=1)
    """translations that are followed side by side (beam search); 1 is greedy"""
    num_translated: int | None = Field(default=200, ge=0)
    """validation rows to translate at each evaluation in training, evenly spread; null is all; evaluate takes all"""
    tokenize: scores.Tokenize = "auto"
    """how BLEU cuts texts into words: auto takes zh or char for texts in Chinese or Japanese, else 13a"""
    judge: str = "loss"
    """the metric that says which evaluation is best, such as chrf"""
    metrics: tuple[str, ...] = ()
    """metrics of your own, each module:function, called with (translations, references, sources)"""
    num_samples: int = Field(default=3, ge=0)
    """how many validation rows to show with the translation, before and after training"""

    _known: _Known = PrivateAttr(default=_Known())

    @property
    def judged(self) -> str:
        """The metric named by `judge`."""
        return self.judge

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Lower for errors; metrics of the user's own are taken for scores."""
        return "lower" if self.judge in ("loss", "perplexity", "ter") else "higher"

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """The columns of the source and the target."""
        if data.format not in ("auto", "text"):
            problem = f"{self.kind()} reads a source and its target, not {data.format}"
            raise RequestError(problem, where="data.format", mend="Leave it out")
        return pair_columns(fields, told=data.columns, where=where)

    def for_model(self, model: nn.Module) -> Self:
        """With the tokens that the model's decoder begins with and is filled up with."""
        config: Any = model.config
        known = self.model_copy()
        pad_id = getattr(config, "pad_token_id", None)
        known._known = dataclasses.replace(self._known, start_id=start_of(model), pad_id=pad_id or 0)
        return known

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Splits the source, gets one tokenizer for both languages, and encodes both parts once."""
        self._check_judge()
        say(f"reading {', '.join(data.train_sources)}")
        source = open_source(data.train_sources, cache=data.cache)
        train, valid = split_source(source, data.valid, seed)
        for note in (*train.notes, *valid.notes):
            say(note)
        columns = self.columns(train.peek()[0].fields, data, source.spec)
        tokenizer = tokenizer_for(data, train, columns, base=base, texts=pair_texts)
        if base is None and (data.tokenizer is None or data.tokenizer.from_ is None):
            _end_texts(tokenizer)
        self._know(tokenizer, data.context)
        say(f"tokenising {train.num_bytes / 1e6:.1f} MB")
        skipped: list[Mapping[str, object]] = []
        learnt = encode_as_told(train, self._encoder(tokenizer, columns, data), data, skipped)
        columns = self.columns(valid.peek()[0].fields, data, valid.spec)
        judging = encode_as_told(valid, self._encoder(tokenizer, columns, data, referenced=True), data, skipped)
        pad_id = tokenizer.pad_token_id
        return Prepared(
            train=Pairs(learnt),
            valid=Pairs(judging, translated=self.num_translated),
            tools=tokenizer,
            context=data.context,
            padded=True,
            vocab_size=len(tokenizer),
            special_tokens=special_tokens(tokenizer),
            model_options={"decoder_start_token_id": pad_id} if base is None else {},
            facts=_facts(learnt, judging, len(tokenizer)),
            skipped=skipped,
            found={"format": "text", "columns": dict(columns.by_role)},
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Encodes `source` as the training data was; every row is to be translated."""
        self._know(tools, data.context)
        opened = open_source(source, cache=data.cache)
        columns = self.columns(opened.peek()[0].fields, data, opened.spec)
        encoder = self._encoder(tools, columns, data, referenced=True)
        return Pairs(encode_as_told(opened, encoder, data, []), translated=None)

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """`labels` holds `tokens` (B, T), `judged` (B,) bool, and where there are any, `references` (UTF-8 bytes).

        The decoder is given the target shifted to the right behind its start token (Sutskever et al. 2014).
        """
        known = self._known
        inputs = _inputs(examples, known.pad_id)
        targets = [np.asarray(example["labels"], dtype=np.int64) for example in examples]
        inputs["decoder_input_ids"] = padded([[known.start_id, *target[:-1]] for target in targets], known.pad_id)
        labels: dict[str, Any] = {
            "tokens": padded(targets, IGNORED),
            "judged": torch.tensor([bool(example["judged"]) for example in examples]),
        }
        if "reference" in examples[0]:
            labels["references"] = tuple(torch.from_numpy(np.array(example["reference"])) for example in examples)
        lengths_B = torch.tensor([len(target) for target in targets])
        return Batch(
            inputs=inputs,
            labels=labels,
            example_ids_B=ids_B,
            targets_B=lengths_B,
            tokens_B=lengths_B + inputs["attention_mask"].sum(1),
        )

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """Summed cross-entropy, fused with the head where the model has a plain one."""
        return token_loss(outputs, batch, **shape_of(ctx))

    def evaluator(self) -> Evaluator:
        """Loss and perplexity of all rows; BLEU, chrF, chrF++ and TER of those that are translated."""
        return TranslationEvaluator(
            self._known.tokenizer,
            beams=self.beams,
            first=self._known.first_id,
            limit=self._known.context,
            tokenize=self.tokenize,
            own=own_metrics(self.metrics),
        )

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """Some validation rows, evenly spread, with their translation and the one of the data."""
        places = np.linspace(0, len(data.valid) - 1, num=min(self.num_samples, len(data.valid)), dtype=int)
        examples = [data.valid[int(at)] for at in dict.fromkeys(places.tolist())]
        if not examples:
            return []
        made = self._translated(model, data.tools, examples, limit=data.context, beams=self.beams)
        return [
            {
                "prompt": text_of(data.tools, example["input_ids"].tolist())[:SAMPLE_CHARACTERS],
                "text": f"\n→ {text[:SAMPLE_CHARACTERS]}",
                "truth": bytes(example["reference"]).decode()[:SAMPLE_CHARACTERS],
            }
            for example, text in zip(examples, made, strict=True)
        ]

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """For each row `prediction`, its translation; rows of similar length are translated together."""
        asked = read_options(TranslationOptions, {"beams": self.beams, **options})
        limit = min(context_of(model) or asked.context, asked.context)
        self._know(tools, limit)
        drawn, encoder = iter(rows), None
        while True:
            examples = []
            for fields in islice(drawn, BATCH_ROWS * CHUNK_BATCHES):
                if encoder is None:
                    columns = pair_columns(fields, told=asked.columns, where="the input", answered=False)
                    encoder = PairEncoder(tools, columns, context=limit, long=asked.long, prefix=self.prefix)
                examples.append(encoder.one(fields))
            if not examples:
                return
            order = sorted(range(len(examples)), key=lambda at: len(examples[at]["input_ids"]))
            texts: dict[int, str] = {}
            for start in range(0, len(order), BATCH_ROWS):
                places = order[start : start + BATCH_ROWS]
                group = [examples[at] for at in places]
                made = self._translated(model, tools, group, limit=limit, beams=asked.beams)
                texts.update(zip(places, made, strict=True))
            for at in range(len(examples)):
                yield {"prediction": texts[at]}

    def _translated(
        self, model: nn.Module, tokenizer: Tools, examples: Sequence[Example], *, limit: int, beams: int
    ) -> list[str]:
        device = next(model.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in _inputs(examples, self._known.pad_id).items()}
        written = translated_ids(model, inputs, beams=beams, first=self._known.first_id, limit=limit)
        return [text_of(tokenizer, ids) for ids in written]

    def _know(self, tokenizer: Tools, context: int) -> None:
        """Tells a tokenizer of many languages which two these are, and remembers what decoding needs of it."""
        for name, language in (("src_lang", self.source_language), ("tgt_lang", self.target_language)):
            if language is None:
                continue
            if not hasattr(tokenizer, name):
                where = "task.source_language" if name == "src_lang" else "task.target_language"
                raise RequestError("this model's tokenizer knows no languages", where=where, mend="Leave it out")
            setattr(tokenizer, name, language)
        prefix = Codec(AsTarget(tokenizer)).prefix
        self._known = dataclasses.replace(
            self._known,
            tokenizer=tokenizer,
            context=context,
            pad_id=tokenizer.pad_token_id,
            first_id=int(prefix[0]) if len(prefix) else None,
        )

    def _encoder(
        self, tokenizer: Tools, columns: Columns, data: DataConfig, *, referenced: bool = False
    ) -> PairEncoder:
        return PairEncoder(
            tokenizer, columns, context=data.context, long=data.long, prefix=self.prefix, referenced=referenced
        )

    def _check_judge(self) -> None:
        if self.num_translated != 0:
            scores.need_sacrebleu()
        written = scores.SCORES if self.num_translated != 0 else ()
        known = ("loss", "perplexity", *written, *own_metrics(self.metrics))
        if self.judge not in known:
            mend = nearest(self.judge, known) if self.num_translated != 0 else "Let task.num_translated be above 0"
            raise RequestError(f"there is no metric {self.judge!r}", where="task.judge", mend=mend)


class TranslationOptions(Config):
    """How to answer rows, and what the trained model's data looked like."""

    beams: int = Field(default=1, ge=1)
    """translations that are followed side by side; 1 is greedy"""
    columns: dict[str, str] = {}
    """role -> column"""
    context: int = Field(default=512, ge=2)
    """tokens of a source, and of a translation, at most"""
    long: Literal["auto", "truncate", "refuse", "split"] = "auto"
    """a longer source: refuse the row (auto too), or cut it"""


def _end_texts(tokenizer: Tools) -> None:
    """Lets a tokenizer that was trained here end every text, and begin none: as encoder-decoders want it."""
    from tokenizers import processors

    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )


def _facts(train: Examples, valid: Examples, vocab_size: int) -> dict[str, float]:
    return {
        "train_examples": len(train),
        "train_source_tokens": int(train.lengths_of("input_ids").sum()),
        "train_tokens": int(train.lengths_of("labels").sum()),
        "train_truncated": train.truncated.count,
        "valid_examples": len(valid),
        "valid_tokens": int(valid.lengths_of("labels").sum()),
        "vocab_size": vocab_size,
    }


def _inputs(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, both (B, S)."""
    sources = [np.asarray(example["input_ids"], dtype=np.int64) for example in examples]
    return {
        "input_ids": padded(sources, pad_id),
        "attention_mask": padded([np.ones(len(source), dtype=np.int64) for source in sources], 0),
    }
