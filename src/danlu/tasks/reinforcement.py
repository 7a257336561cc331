"""Reinforcement: a language model answers prompts and learns from what reward functions say of its answers (GRPO)."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from danlu.core.batch import IGNORED, Batch
from danlu.core.config import read_options
from danlu.core.errors import RequestError, nearest
from danlu.core.outputs import Call, Outputs
from danlu.core.seeds import seed_of
from danlu.core.technique import StepContext
from danlu.data.cache import encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.examples import Examples, ExampleSet
from danlu.data.prompts import PromptEncoder, Prompts, prompt_columns
from danlu.data.sources import open_source
from danlu.maths.losses import weighted_sum
from danlu.maths.policy_gradient import clipped_surrogate, k3
from danlu.models.kernels.log_probs import token_log_probs
from danlu.models.writing import Writing
from danlu.tasks._prepared_text import encoded_parts
from danlu.tasks._reference import Reference, lasting, needs_start
from danlu.tasks._rollouts import Rewards, rehearsed, rolled_out
from danlu.tasks._text_output import TextOptions, predict_texts, sample_texts
from danlu.tasks.base import Evaluator, Example, Prepared, Task, Tools

OLD_ROWS = 16
Measured = Mapping[str, tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Held:
    """What a task finds out on its way; no part of what it is, so that two tasks of the same options are equal."""

    base: str | None = dataclasses.field(default=None, compare=False)
    tokenizer: Tools = dataclasses.field(default=None, compare=False)
    reference: Reference | None = dataclasses.field(default=None, compare=False)


class Reinforcement(Task):
    """Group relative policy optimisation: `group` answers to each prompt, each set against the mean of its group.

    The gradient is that of -1/G Σ_i 1/|o_i| Σ_t [min(ρ A, clip(ρ) A) - β k3], Shao et al. 2024, eq. 3 and 4. What is
    reported as the loss is -reward + β KL, which that descends: its own number is 0 before an update, whatever comes.
    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    tells_losses: ClassVar[bool] = False  # before it has answered, a prompt has none

    rewards: tuple[str, ...] = ()
    """functions that judge answers, each module:function, called with completions, prompts and the data's columns"""
    reward_weights: tuple[float, ...] = ()
    """one for each reward function; all 1 when empty"""
    group: int = Field(default=8, ge=2)
    """answers to each prompt"""
    max_tokens: int = Field(default=128, ge=1)
    """tokens of an answer at most; data.context holds prompt and answer"""
    temperature: float = Field(default=1.0, gt=0)
    """of the draw; the policy that learns is the one at this temperature"""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """draw among the likeliest tokens that together have this probability; below 1 the gradient is no longer exact"""
    beta: float = Field(default=0.04, ge=0)
    """weight of the divergence from the reference; 0 needs no reference"""
    clip: float = Field(default=0.2, gt=0)
    """how far the ratio to the policy that answered may fall below 1, and rise above unless clip_high is given"""
    clip_high: float | None = Field(default=None, gt=0)
    """how far it may rise above 1"""
    num_updates: int = Field(default=1, ge=1)
    """optimiser updates from the same answers; with one the ratio is 1 and nothing is clipped"""
    scale_advantages: bool = True
    """divide by the spread of the group's rewards; Dr. GRPO does not"""
    normalise: Literal["length", "constant"] = "length"
    """divide an answer's sum by its length, or as Dr. GRPO by max_tokens, so that length has no say in the gradient"""
    eval_samples: int = Field(default=1, ge=1)
    """answers to each validation prompt at an evaluation, the same draws each time"""
    reference: str | None = None
    """model that the divergence is measured from; when absent the one that training starts from"""
    judge: str = "reward"
    """the metric that says which evaluation is best"""
    num_samples: int = Field(default=3, ge=0)
    """how many validation prompts to answer before and after training"""

    _held: _Held = PrivateAttr(default=_Held())

    @property
    def judged(self) -> str:
        """The metric named by `judge`."""
        return self.judge

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Higher for rewards."""
        return "higher" if self.judge.startswith("reward") or self.judge in ("ended", "entropy") else "lower"

    @property
    def rolls_out(self) -> bool:
        """The model writes what it learns from."""
        return True

    @property
    def updates(self) -> int:
        """`num_updates`."""
        return self.num_updates

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """The column of the prompt."""
        return prompt_columns(fields, told=data.columns, where=where)

    def for_model(self, model: nn.Module) -> Self:
        """With the reference: `model` as it is now, unless another is named."""
        known = self.model_copy()
        reference = Reference(model, self.reference) if self.beta > 0 else None
        known._held = dataclasses.replace(self._held, reference=reference)
        return known

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Splits the source, gets the tokenizer, encodes the prompts, and tries the reward functions."""
        rewards = self._rewards()
        known = ("reward", "loss", "kl", "entropy", "ended", "completion_tokens", *_names(rewards))
        if self.judge not in known:
            mend = nearest(self.judge, known)
            raise RequestError(f"there is no metric {self.judge!r}", where="task.judge", mend=mend)
        needs_start(base, self.reference, why="GRPO")
        parts = encoded_parts(
            self, data, lambda tools, columns: self._encoder(tools, columns, data), seed=seed, base=base, say=say
        )
        rewards.try_out(_row(parts.train[0]))
        self._held = dataclasses.replace(self._held, base=base, tokenizer=parts.tokenizer)
        return Prepared(
            train=Prompts(parts.train, copies=self.group, max_tokens=self.max_tokens, together=False),
            valid=self._to_judge(parts.valid),
            context=data.context,
            found={"format": parts.columns.kind},
            **parts.for_prepared,
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Encodes `source` as the training data was."""
        opened = open_source(source, cache=data.cache)
        columns = self.columns(opened.peek()[0].fields, data, opened.spec)
        self._held = dataclasses.replace(self._held, tokenizer=tools)
        examples = encode_as_told(opened, self._encoder(tools, columns, data), data, [])
        self._rewards().try_out(_row(examples[0]))
        return self._to_judge(examples)

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """Each prompt as often as it is to be answered, padded at the end; `rollout` adds the answers."""
        copies = [int(example["copies"]) for example in examples]
        rows = [(example, copy) for example, number in zip(examples, copies, strict=True) for copy in range(number)]
        longest = max(len(example["input_ids"]) for example in examples)
        ids_BT = torch.zeros(len(rows), longest, dtype=torch.int64)
        for at, (example, _) in enumerate(rows):
            ids_BT[at, : len(example["input_ids"])] = torch.from_numpy(example["input_ids"].astype(np.int64))
        lengths_B = torch.tensor([len(example["input_ids"]) for example, _ in rows])
        return Batch(
            inputs={"input_ids": ids_BT},
            labels={
                "prompt_tokens": lengths_B,
                "copy": torch.tensor([copy for _, copy in rows]),
                "row": tuple(torch.from_numpy(np.array(example["row"])) for example, _ in rows),
            },
            example_ids_B=ids_B.repeat_interleave(torch.tensor(copies)),
            targets_B=torch.ones(len(rows), dtype=torch.int64),
            tokens_B=lengths_B,
        )

    def rollout(self, call: Call | None, batch: Batch, ctx: StepContext) -> Batch:
        """The model's answers with their rewards; drawn from numbers of the step and the example alone."""
        if "tokens" in batch.labels:
            return batch
        if call is None:
            return rehearsed(batch, max_tokens=self.max_tokens, num_rewards=len(self.rewards))
        writing = Writing(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=seed_of(ctx.seed, "rollout", ctx.clock.step),
        )
        scaled, group = self.scale_advantages, max(self.group, self.eval_samples)
        answered = rolled_out(call, self._held.tokenizer, batch, writing, self._rewards(), group=group, scaled=scaled)
        if self.num_updates == 1:
            return answered
        old = [self._log_probs(call, part) for part in answered.split(OLD_ROWS)]
        return answered.replace(labels={**answered.labels, "old": torch.cat(old)})

    def forward(self, call: Call, batch: Batch) -> Outputs:
        """`policy` and `reference`, (B, T) each: the log-probability of each token of the answers."""
        policy_BT = self._log_probs(call, batch)
        if self._held.reference is None:
            return Outputs(extra={"policy": policy_BT})
        # After the policy: what autocast keeps of a first use without gradients has none later.
        with self._held.reference.instead_of(call, policy_BT.device) as reference:
            return Outputs(extra={"policy": policy_BT, "reference": self._log_probs(reference, batch)})

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """Summed over the answers."""
        return weighted_sum(self._losses(outputs, batch), batch.weights_B)

    def readings(self, outputs: Outputs, batch: Batch) -> Measured:
        """Reward and its spread, divergence, entropy, and how long the answers are."""
        return self._measured(outputs, batch, spread=True)

    def evaluator(self) -> Evaluator:
        """The reward of answers to the validation prompts, and what else is read in training."""

        def measured(outputs: Outputs, batch: Batch) -> Measured:
            weights_B = torch.ones_like(batch.targets_B) if batch.weights_B is None else batch.weights_B
            losses_B = self._losses(outputs, batch) * (weights_B != 0)
            loss = {"loss": (losses_B.sum(), (weights_B != 0).sum())}
            return {**loss, **self._measured(outputs, batch, spread=self.eval_samples > 1)}

        return _RewardEvaluator(measured)

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """Answers to some prompts of the validation data, evenly spread."""
        places = np.linspace(0, len(data.valid) - 1, num=min(self.num_samples, len(data.valid)), dtype=int)
        prompts = [data.valid[int(at)]["input_ids"].tolist() for at in dict.fromkeys(places.tolist())]
        return sample_texts(model, data.tools, prompts, seed=seed)

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """Answers each row's prompt: `prediction`, `finish`, and `logprob` when asked for."""
        return predict_texts(model, tools, rows, read_options(TextOptions, options))

    def notes(self, data: DataConfig) -> dict[str, object]:
        """Also the reference that the divergence was measured from."""
        known = self.model_copy(update={"reference": lasting(self.reference or self._held.base)})
        return super(Reinforcement, known).notes(data)

    def _rewards(self) -> Rewards:
        return Rewards(self.rewards, self.reward_weights)

    def _encoder(self, tokenizer: Tools, columns: Columns, data: DataConfig) -> PromptEncoder:
        if (room := data.context - self.max_tokens) < 1:
            problem = f"{data.context} tokens have no room for an answer of {self.max_tokens}"
            raise RequestError(problem, where="data.context", mend="Raise it, or lower task.max_tokens")
        return PromptEncoder(tokenizer, columns, room=room, template=data.template)

    def _to_judge(self, examples: Examples) -> Prompts:
        return Prompts(examples, copies=self.eval_samples, max_tokens=self.max_tokens, together=True)

    def _log_probs(self, call: Call, batch: Batch) -> Tensor:
        """(B, T), 0 outside the answers."""
        tokens_BT = cast(Tensor, batch.labels["tokens"])
        return token_log_probs(call(batch.inputs), tokens_BT, temperature=self.temperature)

    def _losses(self, outputs: Outputs, batch: Batch) -> Tensor:
        """(B,)"""
        labels = cast("Mapping[str, Tensor]", batch.labels)
        policy_BT, mask_BT = cast(Tensor, outputs.extra["policy"]), labels["tokens"] != IGNORED
        high = self.clip if self.clip_high is None else self.clip_high
        old_BT = labels.get("old", policy_BT.detach())
        gains_BT = clipped_surrogate(policy_BT, old_BT, labels["advantages"][:, None], low=self.clip, high=high)
        gains_B = self._over_tokens(gains_BT, mask_BT)
        losses_B = gains_B.detach() - gains_B - labels["reward"]
        if "reference" not in outputs.extra:
            return losses_B
        apart_BT = k3(policy_BT, cast(Tensor, outputs.extra["reference"]))
        return losses_B + self.beta * self._over_tokens(apart_BT, mask_BT)

    def _over_tokens(self, values_BT: Tensor, mask_BT: Tensor) -> Tensor:
        sums_B = (values_BT * mask_BT).sum(1)
        return sums_B / (mask_BT.sum(1).clamp(min=1) if self.normalise == "length" else self.max_tokens)

    @torch.no_grad()
    def _measured(self, outputs: Outputs, batch: Batch, *, spread: bool) -> Measured:
        labels = cast("Mapping[str, Tensor]", batch.labels)
        policy_BT, mask_BT = cast(Tensor, outputs.extra["policy"]), labels["tokens"] != IGNORED
        counted_B = torch.ones_like(batch.targets_B) if batch.weights_B is None else batch.weights_B != 0
        mask_BT = mask_BT & (counted_B != 0)[:, None]
        tokens, number = mask_BT.sum().float(), counted_B.sum().float()

        def mean(values_B: Tensor) -> tuple[Tensor, Tensor]:
            return (values_B.float() * counted_B).sum(), number

        found = {"reward": mean(labels["reward"])}
        for at, name in enumerate(_names(self._rewards())):
            found[name] = mean(labels["rewards"][:, at])
        if spread:
            found["reward_std"] = mean(labels["spread"])
        if "reference" in outputs.extra:
            apart_BT = k3(policy_BT, cast(Tensor, outputs.extra["reference"]))
            found["kl"] = (apart_BT * mask_BT).sum(), tokens
        found["entropy"] = -(policy_BT * mask_BT).sum(), tokens  # of the drawn tokens: its mean is the entropy
        found["completion_tokens"] = tokens, number
        found["ended"] = mean(labels["ended"])
        return found


class _RewardEvaluator(Evaluator):
    """Sums of what is measured, batch by batch."""

    asks_model: ClassVar[bool] = True

    def __init__(self, measured: Callable[[Outputs, Batch], Measured]) -> None:
        self._measured = measured
        self.sums: dict[str, tuple[float, float]] = {}

    def update(self, outputs: Outputs, batch: Batch) -> None:
        measured = self._measured(outputs, batch)
        self.absorb({name: (float(total), float(number)) for name, (total, number) in measured.items()})

    def state(self) -> object:
        return self.sums

    def absorb(self, state: object) -> None:
        for name, (total, number) in cast("dict[str, tuple[float, float]]", state).items():
            before = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (before[0] + total, before[1] + number)

    def result(self) -> dict[str, float]:
        return {name: total / max(number, 1.0) for name, (total, number) in self.sums.items()}


def _names(rewards: Rewards) -> list[str]:
    """The metrics of the reward functions, where there is more than one."""
    return [f"reward_{name}" for name in rewards.functions] if len(rewards.functions) > 1 else []


def _row(example: Example) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(bytes(example["row"]))
    return found
