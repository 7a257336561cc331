"""Loss and evaluation of classifiers and of regression: shared by the tasks that give labels or numbers.

A batch's `labels` holds one field, which says what is asked: `classes` (B,) int64, `marks` (B, C) of 0 and 1, or
`numbers` (B,).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.maths.losses import cross_entropies, focal, weighted_sum
from danlu.tasks import _class_metrics as scores
from danlu.tasks._own_metrics import OwnMetric, measured
from danlu.tasks.base import Evaluator


def class_loss(outputs: Outputs, batch: Batch, *, label_smoothing: float = 0.0, focal_gamma: float = 0.0) -> Tensor:
    """Cross-entropy, mean binary cross-entropy over the classes, or squared error, summed over weighted rows."""
    logits_BC = outputs.logits.float()
    if "classes" in batch.labels:
        losses_B, plain_B = cross_entropies(
            logits_BC,
            cast(Tensor, batch.labels["classes"]),
            label_smoothing=label_smoothing,
            focal_gamma=focal_gamma,
        )
    elif "marks" in batch.labels:
        marks_BC, measure = cast(Tensor, batch.labels["marks"]), functional.binary_cross_entropy_with_logits
        plain_BC = measure(logits_BC, marks_BC, reduction="none")
        losses_BC, plain_B = focal(plain_BC, focal_gamma), plain_BC.detach().mean(1)
        if label_smoothing > 0:
            doubt_BC = measure(logits_BC, torch.full_like(marks_BC, 0.5), reduction="none")
            losses_BC = (1 - label_smoothing) * losses_BC + label_smoothing * doubt_BC
        losses_B = losses_BC.mean(1)
    else:
        losses_B = (logits_BC[:, 0] - cast(Tensor, batch.labels["numbers"])).square()
        plain_B = losses_B.detach()
    outputs.losses_B = plain_B
    return weighted_sum(losses_B, batch.weights_B)


class ClassEvaluator(Evaluator):
    """Keeps logits and labels of every row, which is what a ranking metric such as AUROC needs.

    Rows count once each: weights of classes are for the training. With `top` the share of rows whose class is among the
    so many likeliest is measured too, as `top5` for 5.
    """

    def __init__(self, names: Sequence[str], own: Mapping[str, OwnMetric], *, top: int | None = None) -> None:
        self.names, self.own, self.top = tuple(names), own, top
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.kind = ""

    def update(self, outputs: Outputs, batch: Batch) -> None:
        ((self.kind, labels),) = batch.labels.items()
        assert isinstance(labels, Tensor)
        counted_B = torch.ones_like(batch.targets_B, dtype=torch.bool)
        if batch.weights_B is not None:
            counted_B = batch.weights_B != 0
        self.logits.append(outputs.logits.detach()[counted_B].float().cpu())
        self.labels.append(labels[counted_B].cpu())

    def state(self) -> object:
        return self.kind, self.logits, self.labels

    def absorb(self, state: object) -> None:
        assert isinstance(state, tuple)
        kind, logits, labels = state
        self.kind = self.kind or kind
        self.logits += logits
        self.labels += labels

    def result(self) -> dict[str, float]:
        predicted, truth = self._predicted(), torch.cat(self.labels).numpy()
        measure: Callable[..., dict[str, float]] = {
            "classes": scores.label_scores,
            "marks": scores.marks_scores,
            "numbers": scores.number_scores,
        }[self.kind]
        truth = truth if self.kind == "numbers" else truth.astype(np.int64)
        own = measured(self.own, predicted, truth, self.names)
        top = {} if self.top is None else {f"top{self.top}": scores.top_accuracy(predicted, truth, self.top)}
        return {**measure(predicted, truth), **top, "loss": self._loss(), **own}

    def tables(self) -> dict[str, object]:
        if self.kind == "numbers":
            return {}
        predicted, truth = self._predicted(), torch.cat(self.labels).numpy()
        chosen = predicted.argmax(1) if self.kind == "classes" else predicted >= 0.5
        return scores.class_tables(chosen, truth, self.names)

    def _predicted(self) -> np.ndarray:
        """(N, C) probabilities, or (N,) numbers."""
        logits_NC = torch.cat(self.logits)
        if self.kind == "numbers":
            return logits_NC[:, 0].numpy()
        return (logits_NC.softmax(1) if self.kind == "classes" else logits_NC.sigmoid()).numpy()

    def _loss(self) -> float:
        """The mean, summed in fp64 so that the order of the rows does not matter."""
        logits_NC, labels = torch.cat(self.logits).double(), torch.cat(self.labels)
        if self.kind == "classes":
            return float(functional.cross_entropy(logits_NC, labels))
        if self.kind == "marks":
            return float(functional.binary_cross_entropy_with_logits(logits_NC, labels.double()))
        return float((logits_NC[:, 0] - labels.double()).square().mean())
