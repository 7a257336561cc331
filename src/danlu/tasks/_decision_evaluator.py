"""Loss and evaluation of policies: on recorded steps, and, where episodes are asked for, by playing.

A batch's `labels` holds `actions` (B,) int64 and, where every action has a worth, `scores` (B, A).
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.episodes import Episode
from danlu.tasks import _class_metrics as scores
from danlu.tasks._playing import play_scores
from danlu.tasks.base import Evaluator

Play = Callable[[nn.Module], list[Episode]]


def soft_targets(scores_BA: Tensor, temperature: float) -> Tensor:
    """q = softmax(worth / temperature): actions that are nearly as good as the best one are nearly as welcome."""
    return (scores_BA.float() / temperature).softmax(1)


def losses_of(logits_BA: Tensor, batch: Batch, temperature: float) -> Tensor:
    """(B,): -Σ_a q_a log p_a with the soft targets where there are scores, else -log p of the action."""
    logits_BA = logits_BA.float()
    if "scores" not in batch.labels or temperature == 0:
        actions_B = cast(Tensor, batch.labels["actions"])
        return nn.functional.cross_entropy(logits_BA, actions_B, reduction="none", ignore_index=-100)
    targets_BA = soft_targets(cast(Tensor, batch.labels["scores"]), temperature)
    return -(targets_BA * logits_BA.log_softmax(1)).sum(1)


class DecisionEvaluator(Evaluator):
    """Accuracy, loss and regret over the rows; `play`, when given, plays once with the model that made the outputs.

    The regret of a step is the worth of the best action less that of the action chosen.
    """

    asks_model: ClassVar[bool] = True

    def __init__(self, names: Sequence[str], temperature: float, play: Play | None) -> None:
        self.names, self.temperature, self.play = tuple(names), temperature, play
        self.chosen: list[Tensor] = []
        self.truth: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.regrets: list[Tensor] = []
        self.played: list[Episode] = []

    def update(self, outputs: Outputs, batch: Batch) -> None:
        logits_BA = outputs.logits.detach()
        if self.play is not None and not self.played:
            self.played = self.play(cast(nn.Module, outputs.model))
        counted_B = torch.ones_like(batch.targets_B, dtype=torch.bool)
        if batch.weights_B is not None:
            counted_B = batch.weights_B != 0
        chosen_B = logits_BA.argmax(1)
        self.chosen.append(chosen_B[counted_B].cpu())
        self.truth.append(cast(Tensor, batch.labels["actions"])[counted_B].cpu())
        self.losses.append(losses_of(logits_BA, batch, self.temperature)[counted_B].double().cpu())
        if "scores" in batch.labels:
            scores_BA = cast(Tensor, batch.labels["scores"])
            regrets_B = scores_BA.max(1).values - scores_BA.gather(1, chosen_B[:, None])[:, 0]
            self.regrets.append(regrets_B[counted_B].double().cpu())

    def state(self) -> object:
        return self.chosen, self.truth, self.losses, self.regrets, self.played

    def absorb(self, state: object) -> None:
        assert isinstance(state, tuple)
        chosen, truth, losses, regrets, played = state
        self.chosen += chosen
        self.truth += truth
        self.losses += losses
        self.regrets += regrets
        self.played = self.played or played  # every process plays the same episodes

    def result(self) -> dict[str, float]:
        right_N = torch.cat(self.chosen) == torch.cat(self.truth)
        found = {"loss": float(torch.cat(self.losses).mean()), "accuracy": float(right_N.double().mean())}
        if self.regrets:
            found["regret"] = float(torch.cat(self.regrets).mean())
        return found | (play_scores(self.played) if self.played else {})

    def tables(self) -> dict[str, object]:
        return scores.class_tables(torch.cat(self.chosen).numpy(), torch.cat(self.truth).numpy(), self.names)
