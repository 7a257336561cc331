"""Losses, rewards and metrics of preferences, from the log-probabilities that policy and reference give."""

import dataclasses
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.maths import preferences as formulas
from danlu.tasks.base import Evaluator

Kind = Literal["dpo", "ipo", "hinge", "orpo", "kto"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Which loss, and its numbers."""

    kind: Kind
    beta: float
    label_smoothing: float = 0.0
    length_normalised: bool = False
    desirable: float = 1.0
    undesirable: float = 1.0

    def losses(self, scores: "Scores") -> Tensor:
        """(B,)"""
        ratios_B2 = self.ratios(scores)
        if self.kind == "orpo":
            return formulas.orpo_losses(ratios_B2[:, 0], ratios_B2[:, 1], beta=self.beta)
        if self.kind == "kto":
            return formulas.kto_losses(
                ratios_B2[:, 0],
                cast(Tensor, scores.desirable_B),
                self.divergence(scores),
                beta=self.beta,
                desirable=self.desirable,
                undesirable=self.undesirable,
            )
        margins_B = ratios_B2[:, 0] - ratios_B2[:, 1]
        if self.kind == "dpo":
            return formulas.dpo_losses(margins_B, beta=self.beta, label_smoothing=self.label_smoothing)
        formula = formulas.ipo_losses if self.kind == "ipo" else formulas.hinge_losses
        return formula(margins_B, beta=self.beta)

    def rewards(self, scores: "Scores") -> Tensor:
        """(B, 2): β log π/π_ref, for ORPO β times the mean log-probability of a token."""
        return self.beta * self.ratios(scores).detach()

    def divergence(self, scores: "Scores") -> Tensor:
        """KTO's z, over all rows that count."""
        return formulas.kto_divergence(self.ratios(scores)[:, 1], scores.counted_B)

    def ratios(self, scores: "Scores") -> Tensor:
        """(B, 2): log π/π_ref of each text, for ORPO the mean log π of a token."""
        if self.kind == "orpo":
            return scores.policy_B2 / scores.tokens_B2
        ratios_B2 = scores.policy_B2 - cast(Tensor, scores.reference_B2)
        return ratios_B2 / scores.tokens_B2 if self.length_normalised else ratios_B2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Log-probabilities of both texts of each row, and how many tokens they are of."""

    policy_B2: Tensor
    reference_B2: Tensor | None
    tokens_B2: Tensor
    counted_B: Tensor
    desirable_B: Tensor | None

    @classmethod
    def of(cls, outputs: Outputs, batch: Batch) -> Self:
        """What the model gave for a batch."""
        weights_B = batch.weights_B
        return cls(
            policy_B2=cast(Tensor, outputs.extra["policy"]).float(),
            reference_B2=cast("Tensor | None", outputs.extra.get("reference")),
            tokens_B2=cast(Tensor, batch.labels["num_tokens"]).clamp(min=1),
            counted_B=torch.ones_like(batch.targets_B, dtype=torch.bool) if weights_B is None else weights_B != 0,
            desirable_B=cast("Tensor | None", batch.labels.get("desirable")),
        )

    def kept(self) -> dict[str, Tensor | None]:
        """The rows that count, on the CPU."""
        return {
            field.name: None if (value := getattr(self, field.name)) is None else value.detach()[self.counted_B].cpu()
            for field in dataclasses.fields(self)
        }


def measured(objective: Objective, scores: Scores) -> dict[str, tuple[Tensor, Tensor]]:
    """Metric → its sum over the rows that count, and their number."""
    rewards_B2, counted_B = objective.rewards(scores), scores.counted_B

    def over(values_B: Tensor, rows_B: Tensor = counted_B) -> tuple[Tensor, Tensor]:
        return (values_B.float() * rows_B).sum(), rows_B.sum().float()

    if scores.desirable_B is not None:
        wanted_B, unwanted_B = counted_B & scores.desirable_B, counted_B & ~scores.desirable_B
        apart_B = objective.ratios(scores).detach()[:, 1]
        return {
            "reward_desirable": over(rewards_B2[:, 0], wanted_B),
            "reward_undesirable": over(rewards_B2[:, 0], unwanted_B),
            "kl": over(apart_B),
        }
    margins_B = rewards_B2[:, 0] - rewards_B2[:, 1]
    return {
        "reward_accuracy": over((margins_B.sign() + 1) / 2),  # a tie is half right
        "reward_margin": over(margins_B),
        "reward_chosen": over(rewards_B2[:, 0]),
        "reward_rejected": over(rewards_B2[:, 1]),
    }


class PreferenceEvaluator(Evaluator):
    """Keeps the log-probabilities of every row: KTO's loss is of all rows together."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.rows: list[dict[str, Tensor | None]] = []

    def update(self, outputs: Outputs, batch: Batch) -> None:
        self.rows.append(Scores.of(outputs, batch).kept())

    def state(self) -> object:
        return self.rows

    def absorb(self, state: object) -> None:
        self.rows += cast("list[dict[str, Tensor | None]]", state)

    def result(self) -> dict[str, float]:
        joined: dict[str, Any] = {
            name: None if value is None else torch.cat([cast(Tensor, row[name]) for row in self.rows])
            for name, value in self.rows[0].items()
        }
        scores = Scores(**joined)
        found = {"loss": float(self.objective.losses(scores).double().mean())}
        sums = measured(self.objective, scores)
        found |= {name: float(total / count) for name, (total, count) in sums.items() if count > 0}
        if {"reward_desirable", "reward_undesirable"} <= found.keys():
            found["reward_margin"] = found["reward_desirable"] - found["reward_undesirable"]
        return found
