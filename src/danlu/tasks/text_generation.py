"""Text generation: a causal language model, on plain text, prompt and response, or chat messages."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from danlu.core.batch import IGNORED, Batch
from danlu.core.config import read_options
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.data.cache import encode_as_told
from danlu.data.config import DataConfig
from danlu.data.examples import Examples, ExampleSet
from danlu.data.packing import cut, pack
from danlu.data.sources import open_source
from danlu.data.split import split_source
from danlu.data.text import TextEncoder
from danlu.data.tokenizers import special_tokens
from danlu.maths.losses import cross_entropies, weighted_sum
from danlu.models.kernels import linear_cross_entropy
from danlu.tasks._prepared_text import tokenizer_for
from danlu.tasks._text_output import TextOptions, predict_texts, prompts_from, sample_texts
from danlu.tasks.base import Evaluator, Example, Prepared, Task, Tools, shape_of


class TextGeneration(Task):
    """Predicts each token from those before it.

    loss = -Σ_t log p(x_t | x_<t), over the tokens that carry a label (all of a text, the answers of a dialogue).
    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    prompts: tuple[str, ...] = ()
    """what samples are continued from; taken from the validation data when empty"""
    num_samples: int = 3
    """how many samples to write before and after training"""

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Splits the source, gets the tokenizer, encodes both parts once, and packs or pads them."""
        say(f"reading {', '.join(data.train_sources)}")
        source = open_source(data.train_sources, cache=data.cache)
        train, valid = split_source(source, data.valid, seed)
        for note in (*train.notes, *valid.notes):
            say(note)
        columns = self.columns(train.peek()[0].fields, data, source.spec)
        tokenizer = tokenizer_for(data, train, columns, base=base)
        encoder = TextEncoder(tokenizer, columns, context=data.context, long=data.long, template=data.template)
        say(f"tokenising {train.num_bytes / 1e6:.1f} MB")
        skipped: list[Mapping[str, object]] = []
        sets = [encode_as_told(part, encoder, data, skipped) for part in (train, valid)]
        rows = [_rows(part, data, seed) for part in sets]
        return Prepared(
            train=rows[0],
            valid=rows[1],
            tools=tokenizer,
            context=data.context,
            padded=data.packing == "pad",
            vocab_size=len(tokenizer),
            special_tokens=special_tokens(tokenizer),
            facts={
                "train_documents": len(sets[0]),
                "train_examples": len(rows[0]),
                "train_tokens": int(rows[0].lengths.sum()),
                "valid_documents": len(sets[1]),
                "valid_examples": len(rows[1]),
                "valid_tokens": int(rows[1].lengths.sum()),
                "train_fill": float(rows[0].lengths.sum()) / (len(rows[0]) * data.context),
                "skipped_rows": sum(part.skipped.count for part in sets),
                "truncated_rows": sum(part.truncated.count for part in sets),
                "vocab_size": len(tokenizer),
            },
            skipped=skipped,
            found={"format": columns.kind},
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Encodes `source` as the training data was."""
        opened = open_source(source, cache=data.cache)
        columns = self.columns(opened.peek()[0].fields, data, opened.spec)
        encoder = TextEncoder(tools, columns, context=data.context, long=data.long, template=data.template)
        return _rows(encode_as_told(opened, encoder, data, []), data, 0)

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """`labels["tokens"]` (B, T) holds at t the token that follows t, or -100 where no loss is taken.

        Positions are given where documents share a row, since they tell where one ends.
        """
        longest = max(len(example["input_ids"]) for example in examples)
        aligned_BT = _stack(examples, "labels", longest)
        labels_BT = torch.full_like(aligned_BT, IGNORED)
        labels_BT[:, :-1] = aligned_BT[:, 1:]
        inputs = {"input_ids": _stack(examples, "input_ids", longest)}
        if any((example["position_ids"][1:] == 0).any() for example in examples):
            inputs["position_ids"] = _stack(examples, "position_ids", longest)
        return Batch(
            inputs=inputs,
            labels={"tokens": labels_BT, "num_bytes": torch.tensor([int(e["num_bytes"]) for e in examples])},
            example_ids_B=ids_B,
            targets_B=(labels_BT != IGNORED).sum(1),
            tokens_B=torch.tensor([len(example["input_ids"]) for example in examples]),
        )

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """Summed cross-entropy, fused with the head unless somebody has made the logits."""
        return token_loss(outputs, batch, **shape_of(ctx))

    def evaluator(self) -> Evaluator:
        """Loss, perplexity and bits per byte."""
        return TextEvaluator()

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """Continues the recipe's prompts, or the beginnings of some validation rows."""
        prompts = self.prompts or prompts_from(data.valid, self.num_samples, data.tools)
        return sample_texts(model, data.tools, prompts, seed=seed)

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """Completes each row's prompt: `prediction`, `finish`, and `logprob` when asked for."""
        return predict_texts(model, tools, rows, read_options(TextOptions, options))


def _rows(examples: Examples, data: DataConfig, seed: int) -> ExampleSet:
    """Rows of at most `context` tokens: several documents packed in one, or one piece each, to be padded."""
    return pack(examples, data.context, seed) if data.packing == "pack" else cut(examples, data.context)


def token_loss(outputs: Outputs, batch: Batch, *, label_smoothing: float = 0.0, focal_gamma: float = 0.0) -> Tensor:
    """Cross-entropy summed over `batch.labels["tokens"]`, each row times its weight; its shape as of `shape_of`."""
    labels_BT = batch.labels["tokens"]
    assert isinstance(labels_BT, Tensor)
    weights_N = None
    if batch.weights_B is not None:
        weights_N = batch.weights_B[:, None].expand(labels_BT.shape).flatten()
    labels_N = labels_BT.flatten()
    if outputs.hidden is not None and outputs.head is not None and not outputs.has_logits:
        loss, plain_N = linear_cross_entropy(
            outputs.hidden.flatten(0, -2),
            outputs.head.weight,
            labels_N,
            bias_V=outputs.head.bias,
            weights_N=weights_N,
            return_rows=True,
            label_smoothing=label_smoothing,
            focal_gamma=focal_gamma,
        )
    else:
        losses_N, plain_N = cross_entropies(
            outputs.logits.flatten(0, -2), labels_N, label_smoothing=label_smoothing, focal_gamma=focal_gamma
        )
        loss = weighted_sum(losses_N, weights_N)
    outputs.losses_B = plain_N.view(labels_BT.shape).sum(1)
    return loss


class TextEvaluator(Evaluator):
    """Loss in nats a token, perplexity = e^loss, and bits per byte = Σ loss / (ln 2 · bytes of the text)."""

    def __init__(self) -> None:
        self.nats = 0.0
        self.num_tokens = 0
        self.num_bytes = 0

    def update(self, outputs: Outputs, batch: Batch) -> None:
        self.nats += float(token_loss(outputs, batch))
        self.num_tokens += batch.num_targets
        rows_B = torch.ones_like(batch.targets_B) if batch.weights_B is None else batch.weights_B != 0
        num_bytes_B = batch.labels["num_bytes"]
        assert isinstance(num_bytes_B, Tensor)
        self.num_bytes += int((num_bytes_B * rows_B).sum())

    def state(self) -> object:
        return self.nats, self.num_tokens, self.num_bytes

    def absorb(self, state: object) -> None:
        assert isinstance(state, tuple)
        self.nats += state[0]
        self.num_tokens += state[1]
        self.num_bytes += state[2]

    def result(self) -> dict[str, float]:
        loss = self.nats / max(self.num_tokens, 1)
        metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if self.num_bytes:
            metrics["bits_per_byte"] = self.nats / math.log(2) / self.num_bytes
        return metrics


def _stack(examples: Sequence[Example], name: str, longest: int) -> Tensor:
    """Rows of one field, (B, T). Padding comes last, where no earlier token sees it: it needs no attention mask."""
    rows_BT = torch.zeros((len(examples), longest), dtype=torch.int64)
    for row_T, example in zip(rows_BT, examples, strict=True):
        length = len(example[name])
        row_T[:length] = torch.from_numpy(np.asarray(example[name], dtype=np.int64))
        if name == "labels":
            row_T[length:] = IGNORED
        elif name == "position_ids":
            row_T[length:] = torch.arange(length, longest)
    return rows_BT
