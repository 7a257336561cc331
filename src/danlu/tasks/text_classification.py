"""Text classification: one label a text (or a pair of texts), several labels, or a number."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from danlu.core.batch import Batch
from danlu.core.config import Config, read_options
from danlu.core.errors import RequestError, nearest
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.data.cache import encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.examples import Examples, ExampleSet
from danlu.data.labelled import Balanced, LabelledEncoder, text_columns
from danlu.data.labels import LabelReader, LabelSet, Target, labelled_columns, scan_labels
from danlu.data.sources import Source, open_source
from danlu.data.split import split_source
from danlu.data.tokenizers import special_tokens
from danlu.models.forward import Forward
from danlu.models.writing import context_of
from danlu.tasks import _class_metrics as scores
from danlu.tasks._class_evaluator import ClassEvaluator, class_loss
from danlu.tasks._own_metrics import own_metrics
from danlu.tasks._prepared_text import tokenizer_for
from danlu.tasks.base import Evaluator, Example, Prepared, Task, Tools, shape_of

BATCH_ROWS = 32
SAMPLE_CHARACTERS = 400
METRICS: Mapping[Target, tuple[str, ...]] = {
    "label": scores.LABEL_METRICS,
    "labels": scores.LABELS_METRICS,
    "number": scores.NUMBER_METRICS,
}
PROBLEMS: Mapping[Target, str] = {
    "label": "single_label_classification",
    "labels": "multi_label_classification",
    "number": "regression",
}
"""what transformers calls the targets"""


class TextClassification(Task):
    """Says which of some classes a text, or a pair of texts, belongs to; or several of them; or a number.

    The loss of a row is -log p(label) for one label, the mean binary cross-entropy over the classes for several, and
    the squared error for a number. `label_smoothing` moves ε of the weight to all classes alike.
    """

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    taught: ClassVar[tuple[str, ...]] = ("columns", "context", "long")

    target: Literal["auto", "label", "labels", "number"] = "auto"
    """what the label column holds: one label, several, or a number; auto looks at it"""
    labels: tuple[str, ...] = ()
    """the classes in their order; when empty, those of data.train, sorted"""
    separator: str | None = Field(default=None, min_length=1)
    """what stands between several labels in one text, such as ","; lists need none"""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class counts the same in training, however rare it is"""
    judge: str = "loss"
    """the metric that says which evaluation is best, such as macro_f1"""
    metrics: tuple[str, ...] = ()
    """metrics of your own, each module:function, called with (probabilities or numbers, truth, names of the classes)"""
    num_samples: int = Field(default=3, ge=0)
    """how many validation rows to show with the prediction, before and after training"""

    _pad_id: int = PrivateAttr(default=0)

    @field_validator("labels")
    @classmethod
    def _differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels) or len(labels) == 1:
            raise ValueError("give two labels or more, each once")
        return labels

    @property
    def judged(self) -> str:
        """The metric named by `judge`."""
        return self.judge

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Lower for errors; metrics of the user's own are taken for scores."""
        return "lower" if self.judge in scores.LOWER_IS_BETTER else "higher"

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """The columns of text, perhaps a second text, and label."""
        if data.format not in ("auto", "text"):
            problem = f"{self.kind()} reads a text and its label, not {data.format}"
            raise RequestError(problem, where="data.format", mend="Leave it out")
        return labelled_columns(fields, told=data.columns, where=where)

    def for_model(self, model: nn.Module) -> Self:
        """With the classes and the target that the model's config names."""
        config: Any = cast(PreTrainedModel, model).config
        by_problem = {problem: target for target, problem in PROBLEMS.items()}
        target = by_problem.get(str(config.problem_type), "number" if config.num_labels == 1 else "label")
        names = () if target == "number" else tuple(config.id2label[at] for at in range(config.num_labels))
        known = self.model_copy(update={"target": target, "labels": names})
        known._pad_id = getattr(config, "pad_token_id", None) or 0
        return known

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Finds the labels in data.train, splits it, gets the tokenizer, and encodes both parts once."""
        scores.torchmetrics()
        say(f"reading {', '.join(data.train_sources)}")
        source = open_source(data.train_sources, cache=data.cache)
        train, valid = split_source(source, data.valid, seed)
        columns = self.columns(train.peek()[0].fields, data, source.spec)
        found = self._find_labels(source, columns["label"], data)
        tokenizer = tokenizer_for(data, train, text_columns(columns), base=base)
        reader = LabelReader(column=columns["label"], target=found.target, names=found.names, separator=self.separator)
        encoder = LabelledEncoder(tokenizer, columns, reader, context=data.context, long=data.long)
        say(f"tokenising {train.num_bytes / 1e6:.1f} MB")
        skipped: list[Mapping[str, object]] = []
        parts = [encode_as_told(part, encoder, data, skipped) for part in (train, valid)]
        return Prepared(
            train=Balanced(parts[0]) if self.class_weights == "balanced" else parts[0],
            valid=parts[1],
            tools=tokenizer,
            context=data.context,
            padded=True,
            vocab_size=len(tokenizer),
            special_tokens=special_tokens(tokenizer),
            model_options=_model_options(found, tokenizer),
            facts=_facts(parts[0], parts[1], found, len(tokenizer)),
            skipped=skipped,
            found={"format": "text", "columns": dict(columns.by_role)},
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Encodes `source` as the training data was, with the model's labels."""
        assert self.target != "auto", "the task must know its model first"
        scores.torchmetrics()
        opened = open_source(source, cache=data.cache)
        columns = self.columns(opened.peek()[0].fields, data, opened.spec)
        reader = LabelReader(column=columns["label"], target=self.target, names=self.labels, separator=self.separator)
        encoder = LabelledEncoder(tools, columns, reader, context=data.context, long=data.long)
        return encode_as_told(opened, encoder, data, [])

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """`labels` holds `classes` (B,) int64, `marks` (B, C) of 0 and 1, or `numbers` (B,), as the target is."""
        inputs = _inputs(examples, self._pad_id)
        labels = torch.from_numpy(np.stack([np.asarray(example["label"]) for example in examples]))
        kind = "classes" if labels.dtype == torch.int64 else "numbers" if labels.ndim == 1 else "marks"
        weighted = "weight" in examples[0]
        return Batch(
            inputs=inputs,
            labels={kind: labels if kind == "classes" else labels.float()},
            example_ids_B=ids_B,
            targets_B=torch.ones(len(examples), dtype=torch.int64),
            tokens_B=inputs["attention_mask"].sum(1),
            weights_B=torch.tensor([float(example["weight"]) for example in examples]) if weighted else None,
        )

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """Summed over the rows, in fp32."""
        return class_loss(outputs, batch, **shape_of(ctx))

    def evaluator(self) -> Evaluator:
        """The metrics of the target, and the user's own."""
        return ClassEvaluator(self.labels, own_metrics(self.metrics))

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """Some validation rows, evenly spread, with the prediction and what the data says."""
        places = np.linspace(0, len(data.valid) - 1, num=min(self.num_samples, len(data.valid)), dtype=int)
        examples = [data.valid[int(at)] for at in dict.fromkeys(places.tolist())]
        if not examples:
            return []
        logits_BC = _logits(Forward(model), _inputs(examples, self._pad_id))
        return [
            {
                "prompt": data.tools.decode(example["input_ids"].tolist(), skip_special_tokens=True)[
                    :SAMPLE_CHARACTERS
                ],
                "text": f"\n→ {_in_words(self._told(logits_C, 0.5))}",
                "truth": self._truth(np.asarray(example["label"])),
            }
            for example, logits_C in zip(examples, logits_BC, strict=True)
        ]

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """For each row `prediction` (a label, a list of labels, or a number) and the `probabilities` of the classes."""
        asked = read_options(ClassOptions, options)
        limit = min(context_of(model) or asked.context, asked.context)
        forward, drawn, encoder = Forward(model), iter(rows), None
        batch_rows = BATCH_ROWS if getattr(model.config, "pad_token_id", None) is not None else 1
        while True:
            examples = []
            for fields in islice(drawn, batch_rows):
                if encoder is None:
                    columns = labelled_columns(fields, told=asked.columns, where="the input", labelled=False)
                    encoder = LabelledEncoder(tools, columns, None, context=limit, long=asked.long)
                examples.append(encoder.one(fields))
            if not examples:
                return
            for logits_C in _logits(forward, _inputs(examples, self._pad_id)):
                yield self._told(logits_C, asked.threshold)

    def _find_labels(self, source: Source, column: str, data: DataConfig) -> LabelSet:
        """The target and the classes, and whether the other options agree with them."""
        if self.labels and self.target in ("label", "labels"):
            found = LabelSet(target=cast(Target, self.target), names=self.labels)
        else:
            found = scan_labels(source, column, target=self.target, separator=self.separator, cache=data.cache)
            found = LabelSet(target=found.target, names=self.labels or found.names) if self.labels else found
        if self.class_weights == "balanced" and found.target != "label":
            problem = "weights of classes are for rows of one label each"
            raise RequestError(problem, where="task.class_weights", mend="Set it to none")
        known = (*METRICS[found.target], *own_metrics(self.metrics))
        if self.judge not in known:
            problem = f"there is no metric {self.judge!r} where the target is {found.target}"
            raise RequestError(problem, where="task.judge", mend=nearest(self.judge, known))
        return found

    def _told(self, logits_C: Tensor, threshold: float) -> dict[str, object]:
        """What a prediction says, ready for JSON."""
        if self.target == "number":
            return {"prediction": float(logits_C[0])}
        several = self.target == "labels"
        chances = (logits_C.sigmoid() if several else logits_C.softmax(0)).tolist()
        probabilities = {name: round(chance, 6) for name, chance in zip(self.labels, chances, strict=True)}
        if several:
            chosen = [name for name, chance in zip(self.labels, chances, strict=True) if chance >= threshold]
            return {"prediction": chosen, "probabilities": probabilities}
        return {"prediction": self.labels[int(logits_C.argmax())], "probabilities": probabilities}

    def _truth(self, label: np.ndarray) -> str:
        if self.target == "number":
            return f"{float(label):.4g}"
        names = [self.labels[int(label)]] if label.ndim == 0 else [self.labels[at] for at in np.flatnonzero(label)]
        return ", ".join(names) or "none"


class ClassOptions(Config):
    """How to answer rows, and what the trained model's data looked like."""

    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    """of several labels, those with at least this probability are given"""
    columns: dict[str, str] = {}
    """role -> column"""
    context: int = Field(default=512, ge=2)
    """tokens of a row at most"""
    long: Literal["auto", "truncate", "refuse", "split"] = "auto"
    """a longer text: cut it, or refuse the row"""


def _model_options(found: LabelSet, tokenizer: Any) -> dict[str, object]:
    """Keys of the model's config, so that it names its classes wherever it is loaded."""
    names = dict(enumerate(found.names)) or {0: "number"}
    return {
        "problem_type": PROBLEMS[found.target],
        "id2label": names,
        "label2id": {name: at for at, name in names.items()},
        "num_labels": len(names),
        "pad_token_id": tokenizer.pad_token_id,
    }


def _facts(train: Examples, valid: Examples, found: LabelSet, vocab_size: int) -> dict[str, float]:
    return {
        "train_examples": len(train),
        "train_tokens": train.num_tokens,
        "train_truncated": train.truncated.count,
        "valid_examples": len(valid),
        "valid_tokens": valid.num_tokens,
        "num_labels": len(found.names),
        "vocab_size": vocab_size,
    }


def _inputs(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and, where a pair's texts are told apart, `token_type_ids`: all (B, T)."""
    longest = max(len(example["input_ids"]) for example in examples)
    inputs = {"input_ids": _padded([example["input_ids"] for example in examples], longest, pad_id)}
    inputs["attention_mask"] = _padded([np.ones(len(example["input_ids"])) for example in examples], longest, 0)
    if "token_type_ids" in examples[0]:
        inputs["token_type_ids"] = _padded([example["token_type_ids"] for example in examples], longest, 0)
    return inputs


def _padded(rows: Sequence[np.ndarray], longest: int, filling: int) -> Tensor:
    rows_BT = torch.full((len(rows), longest), filling, dtype=torch.int64)
    for row_T, values in zip(rows_BT, rows, strict=True):
        row_T[: len(values)] = torch.from_numpy(np.asarray(values, dtype=np.int64))
    return rows_BT


@torch.no_grad()
def _logits(forward: Forward, inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, C) on the CPU; the model is left in the mode that it was in."""
    was_training, device = forward.model.training, next(forward.model.parameters()).device
    forward.model.eval()
    try:
        outputs = forward({name: tensor.to(device) for name, tensor in inputs.items()})
    finally:
        forward.model.train(was_training)
    return outputs.logits.float().cpu()


def _readable(ids_T: np.ndarray, tokenizer: Any) -> str:
    return str(tokenizer.decode(ids_T.tolist(), skip_special_tokens=True))[:SAMPLE_CHARACTERS]


def _in_words(told: Mapping[str, object]) -> str:
    """A prediction for a person: the label with its chance, or the number."""
    prediction, chances = told["prediction"], cast(Mapping[str, float], told.get("probabilities") or {})
    if isinstance(prediction, float):
        return f"{prediction:.4g}"
    names = [prediction] if isinstance(prediction, str) else cast(list[str], prediction)
    return ", ".join(f"{name} ({chances[name]:.0%})" for name in names) or "none"
