"""Scores: the logits that a batch asks for, made piece by piece, for techniques that compare two networks' answers."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from danlu.core.batch import IGNORED, Batch
from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.maths.distillation import CHUNK_ELEMENTS, sum_in_chunks

Scores = Callable[[slice], Tensor]
"""logits (n, V) in fp32 of some of the N targets; (n, C, 2) where each of C classes holds or not"""


def targets(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The N targets that carry a loss: their places among the rows (and tokens) of the scores, and their weights."""
    tokens_BT = batch.labels.get("tokens")
    if isinstance(tokens_BT, Tensor):
        at_N = (tokens_BT.flatten() != IGNORED).nonzero().squeeze(1)
        rows_N = at_N // tokens_BT.shape[1]
    else:
        at_N = rows_N = (batch.targets_B > 0).nonzero().squeeze(1)
    return at_N, None if batch.weights_B is None else batch.weights_B[rows_N]


def check_comparable(outputs: Outputs, batch: Batch, where: str) -> None:
    """A distribution over tokens, classes or marks for each target.

    Raises:
        RequestError: the task gives something else.
    """
    by_token = "tokens" in batch.labels
    scored = outputs.head is not None or outputs.has_logits
    if not scored or "numbers" in batch.labels or outputs_rank(outputs) != (3 if by_token else 2):
        mend = "It is for tasks whose answer is a class or a token"
        raise RequestError("this task's model gives no probabilities to compare", where=where, mend=mend)


def outputs_rank(outputs: Outputs) -> int:
    """The number of dimensions that the logits have or would have."""
    made = outputs.hidden if outputs.hidden is not None and outputs.head is not None else outputs.logits
    return made.ndim


def num_scores(outputs: Outputs) -> int:
    """V, without making the logits."""
    return int(outputs.logits.shape[-1] if outputs.head is None else outputs.head.weight.shape[0])


def scores(outputs: Outputs, batch: Batch, at_N: Tensor, size: int | None = None) -> Scores:
    """Makes the logits of parts of the targets; of the first `size` outcomes where more are known than shared.

    With a head left to the loss, no more logits are made at once than are asked for.
    """
    if outputs.head is not None and outputs.hidden is not None and not outputs.has_logits:
        head, hidden_ND = outputs.head, outputs.hidden.flatten(0, -2)[at_N]

        def made(part: slice) -> Tensor:
            bias_V = None if head.bias is None else head.bias[:size]
            return functional.linear(hidden_ND[part], head.weight[:size], bias_V).float()

        return made
    logits_MV = outputs.logits.flatten(0, -2)
    if "marks" in batch.labels:
        return lambda part: torch.stack([torch.zeros_like(z := logits_MV[at_N[part]].float()), z], -1)
    return lambda part: logits_MV[at_N[part], :size].float()


def compared(loss_of: Callable[[slice], Tensor], length: int, weights_N: Tensor | None, num_outcomes: int) -> Tensor:
    """Σ over the targets of a loss, (n,) or (n, C) for a part of them, times their weights; at most a chunk at once."""

    def summed(part: slice) -> Tensor:
        losses_n = loss_of(part)
        losses_n = losses_n.mean(-1) if losses_n.ndim > 1 else losses_n
        return losses_n.sum() if weights_N is None else torch.dot(losses_n, weights_N[part].to(losses_n.dtype))

    return sum_in_chunks(summed, length, max(1, CHUNK_ELEMENTS // num_outcomes))
