"""Preference: a language model is aligned with which of two completions people prefer (DPO, IPO, hinge, ORPO, KTO)."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor, nn

from danlu.core.batch import IGNORED, Batch
from danlu.core.config import read_options
from danlu.core.errors import RequestError, nearest
from danlu.core.outputs import Call, Outputs
from danlu.core.technique import StepContext
from danlu.data.cache import encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.examples import ExampleSet
from danlu.data.preferences import PreferenceEncoder, Preferences, preference_columns
from danlu.data.sources import open_source
from danlu.maths.losses import weighted_sum
from danlu.models.kernels.log_probs import token_log_probs
from danlu.tasks._preference_evaluator import Kind, Objective, PreferenceEvaluator, Scores, measured
from danlu.tasks._prepared_text import encoded_parts
from danlu.tasks._reference import Reference, lasting, needs_start
from danlu.tasks._text_output import TextOptions, predict_texts, sample_texts
from danlu.tasks.base import Evaluator, Example, Prepared, Task, Tools

PAIRED_METRICS = ("loss", "reward_accuracy", "reward_margin", "reward_chosen", "reward_rejected")
VERDICT_METRICS = ("loss", "reward_desirable", "reward_undesirable", "reward_margin", "kl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Held:
    """What a task finds out on its way; no part of what it is, so that two tasks of the same options are equal."""

    base: str | None = dataclasses.field(default=None, compare=False)
    reference: Reference | None = dataclasses.field(default=None, compare=False)


class Preference(Task):
    """Raises the chosen completion above the rejected one, and stays near the model that it started from.

    dpo: -log σ(β h), ipo: (h - 1/(2β))², hinge: max(0, 1 - β h), where h is the margin of a pair: log π/π_ref of the
    chosen less that of the rejected. orpo: -log P(chosen) - β log σ(log odds ratio), without a reference. kto: for
    completions that are each desirable or not. Formulas and papers are in `danlu.maths.preferences`.
    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    objective: Kind = "dpo"
    """dpo, ipo, hinge or orpo for pairs; kto for completions with a verdict, or for pairs taken apart"""
    beta: float = Field(default=0.1, gt=0)
    """how firmly the policy is held to the reference; for orpo the weight of the odds ratio"""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """dpo: the chance that a pair is labelled the wrong way round (conservative DPO)"""
    length_normalised: bool = False
    """take the mean over a completion's tokens instead of the sum, so that long ones count no more; orpo always does"""
    desirable_weight: float = Field(default=1.0, gt=0)
    """kto: λ_D"""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """kto: λ_U; the paper wants λ_D n_D / (λ_U n_U) between 1 and 4/3"""
    reference: str | None = None
    """model that rewards are measured against; when absent the one that training starts from"""
    judge: str = "loss"
    """the metric that says which evaluation is best, such as reward_accuracy"""
    num_samples: int = Field(default=3, ge=0)
    """how many validation prompts to answer before and after training"""

    _held: _Held = PrivateAttr(default=_Held())

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.label_smoothing and self.objective != "dpo":
            raise ValueError(f"label_smoothing belongs to objective: dpo, not to {self.objective}")
        return self

    @property
    def judged(self) -> str:
        """The metric named by `judge`."""
        return self.judge

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Lower for the loss, the divergence and what is to be avoided."""
        lower = ("loss", "kl", "reward_rejected", "reward_undesirable")
        return "lower" if self.judge in lower else "higher"

    @property
    def contrasted(self) -> tuple[str, ...]:
        """KTO's divergence is that of the whole step."""
        return ("policy", "reference") if self.objective == "kto" else ()

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """The columns of the prompt and its completions."""
        return preference_columns(fields, told=data.columns, where=where, verdicts=self.objective == "kto")

    def for_model(self, model: nn.Module) -> Self:
        """With the reference: `model` as it is now, unless another is named."""
        known = self.model_copy()
        if self.objective != "orpo":
            known._held = dataclasses.replace(self._held, reference=Reference(model, self.reference))
        return known

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Splits the source, gets the tokenizer, and encodes both parts once."""
        metrics = VERDICT_METRICS if self.objective == "kto" else PAIRED_METRICS
        if self.judge not in metrics:
            mend = nearest(self.judge, metrics)
            raise RequestError(f"there is no metric {self.judge!r}", where="task.judge", mend=mend)
        if self.objective != "orpo":
            needs_start(base, self.reference, why=self.objective.upper())
        self._held = dataclasses.replace(self._held, base=base)
        parts = encoded_parts(
            self, data, lambda tools, columns: self._encoder(tools, columns, data), seed=seed, base=base, say=say
        )
        return Prepared(
            train=Preferences(parts.train, context=data.context),
            valid=Preferences(parts.valid, context=data.context),
            context=data.context,
            found={"format": parts.columns.kind},
            **parts.for_prepared,
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Encodes `source` as the training data was."""
        opened = open_source(source, cache=data.cache)
        columns = self.columns(opened.peek()[0].fields, data, opened.spec)
        examples = encode_as_told(opened, self._encoder(tools, columns, data), data, [])
        return Preferences(examples, context=data.context)

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """`inputs["token_ids"]` (B, 2, T): both texts of each row, padded at their end, where no token sees it.

        `inputs["scored_ids"]` (B, 2, T) holds at t the token that follows t where that is of the completion, else
        -100; `labels["num_tokens"]` (B, 2) says how many these are.
        """
        longest = max(int(example["lengths"].max()) for example in examples)
        ids_B2T = np.zeros((len(examples), 2, longest), dtype=np.int64)
        labels_B2T = np.full_like(ids_B2T, IGNORED)
        for row, example in enumerate(examples):
            cut = [int(example["lengths"][0])]
            parts = zip(np.split(example["input_ids"], cut), np.split(example["labels_mask"], cut), strict=True)
            for at, (text, mask) in enumerate(parts):
                ids_B2T[row, at, : len(text)] = text
                labels_B2T[row, at, : len(text) - 1] = np.where(mask[1:], text[1:].astype(np.int64), IGNORED)
        labels = {"num_tokens": torch.from_numpy((labels_B2T != IGNORED).sum(-1))}
        if "desirable" in examples[0]:
            labels["desirable"] = torch.tensor([bool(example["desirable"]) for example in examples])
        return Batch(
            inputs={"token_ids": torch.from_numpy(ids_B2T), "scored_ids": torch.from_numpy(labels_B2T)},
            labels=labels,
            example_ids_B=ids_B,
            targets_B=torch.ones(len(examples), dtype=torch.int64),
            tokens_B=torch.tensor([int(example["lengths"].sum()) for example in examples]),
        )

    def forward(self, call: Call, batch: Batch) -> Outputs:
        """`policy` and `reference`, (B, 2) each: log-probabilities of both completions, summed over their tokens."""
        ids_B2T, labels_B2T = (cast(Tensor, batch.inputs[name]) for name in ("token_ids", "scored_ids"))
        if self.objective == "kto":  # the mismatched texts carry no gradient
            policy_B2 = _log_probs(call, ids_B2T[:, :1], labels_B2T[:, :1])
            with torch.no_grad():
                apart_B2 = _log_probs(call, ids_B2T[:, 1:], labels_B2T[:, 1:])
            policy_B2 = torch.cat([policy_B2, apart_B2], 1)
        else:
            policy_B2 = _log_probs(call, ids_B2T, labels_B2T)
        if self._held.reference is None:
            return Outputs(extra={"policy": policy_B2})
        # After the policy: what autocast keeps of a first use without gradients has none later.
        with self._held.reference.instead_of(call, ids_B2T.device) as reference:
            return Outputs(extra={"policy": policy_B2, "reference": _log_probs(reference, ids_B2T, labels_B2T)})

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """Summed over the rows."""
        losses_B = self._formula.losses(Scores.of(outputs, batch))
        outputs.losses_B = losses_B.detach()
        return weighted_sum(losses_B, batch.weights_B)

    def readings(self, outputs: Outputs, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Rewards of the step; of pairs also how often the chosen one has the greater."""
        return measured(self._formula, Scores.of(outputs, batch))

    def evaluator(self) -> Evaluator:
        """Loss, rewards, and of pairs the accuracy."""
        return PreferenceEvaluator(self._formula)

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """Answers to some prompts of the validation data, evenly spread."""
        places = np.linspace(0, len(data.valid) - 1, num=min(self.num_samples, len(data.valid)), dtype=int)
        examples = [data.valid[int(at)] for at in dict.fromkeys(places.tolist())]
        prompts = [example["input_ids"][: int(np.argmax(example["labels_mask"]))].tolist() for example in examples]
        return sample_texts(model, data.tools, prompts, seed=seed)

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """Completes each row's prompt: `prediction`, `finish`, and `logprob` when asked for."""
        return predict_texts(model, tools, rows, read_options(TextOptions, options))

    def notes(self, data: DataConfig) -> dict[str, object]:
        """Also the reference that rewards were measured against."""
        known = self.model_copy(update={"reference": lasting(self.reference or self._held.base)})
        return super(Preference, known).notes(data)

    @property
    def _formula(self) -> Objective:
        return Objective(
            kind=self.objective,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            length_normalised=self.length_normalised,
            desirable=self.desirable_weight,
            undesirable=self.undesirable_weight,
        )

    def _encoder(self, tokenizer: Tools, columns: Columns, data: DataConfig) -> PreferenceEncoder:
        return PreferenceEncoder(
            tokenizer,
            columns,
            context=data.context,
            long=data.long,
            template=data.template,
            unpair=self.objective == "kto",
        )


def _log_probs(call: Call, ids_BKT: Tensor, labels_BKT: Tensor) -> Tensor:
    """(B, K): the sum over each text's labelled tokens."""
    outputs = call({"input_ids": ids_BKT.flatten(0, 1)})
    found: Tensor = token_log_probs(outputs, labels_BKT.flatten(0, 1)).sum(-1)
    return found.view(ids_BKT.shape[:2])
