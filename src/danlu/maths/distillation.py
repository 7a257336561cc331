"""Divergences between a teacher's distribution and a student's, over all outcomes or the likeliest alone."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Divergence = Literal["forward", "reverse", "js"]

NOTHING = -80.0
"""the log-probability that stands for none at all: e^-80 vanishes beside 1, and differences of it stay finite"""
CHUNK_ELEMENTS = 2**22
"""scores of one network that are held at once, 16 MiB in fp32"""


def divergence(teacher: Tensor, student: Tensor, kind: Divergence = "forward", beta: float = 0.5) -> Tensor:
    """How far the student's distribution q is from the teacher's p; log-probabilities (..., V) -> (...).

        forward  KL(p ‖ q) = Σ_v p_v (log p_v − log q_v)     (Hinton et al. 2015, section 2, up to a constant)
        reverse  KL(q ‖ p)                                      (Gu et al. 2024, "MiniLLM", equation 1)
        js       β KL(p ‖ m) + (1 − β) KL(q ‖ m),   m = β p + (1 − β) q      (Agarwal et al. 2024, "GKD", equation 1)

    The last, over β (1 − β), becomes KL(p ‖ q) as β → 0 and KL(q ‖ p) as β → 1.
    """
    if kind == "forward":
        return _kl(teacher, student)
    if kind == "reverse":
        return _kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def symmetric(one: Tensor, two: Tensor) -> Tensor:
    """½ [KL(p₁ ‖ p₂) + KL(p₂ ‖ p₁)] of log-probabilities (..., V) -> (...) (Wu et al. 2021, "R-Drop", section 2)."""
    return 0.5 * ((one.exp() - two.exp()) * (one - two)).sum(-1)


def _kl(one: Tensor, two: Tensor) -> Tensor:
    return functional.kl_div(two, one, log_target=True, reduction="none").sum(-1)


def coarse(logits: Tensor, indices: Tensor) -> Tensor:
    """Log-probabilities of K outcomes and of all others together: (..., V), (..., K) -> (..., K + 1).

    Two distributions made coarse alike are no farther apart than before (the data-processing inequality), and as far
    when K + 1 = V. Without others (K = V) the last is `NOTHING`.
    """
    log_probs = logits.log_softmax(-1)
    if indices.shape[-1] == logits.shape[-1]:
        rest = log_probs.new_full((*log_probs.shape[:-1], 1), NOTHING)
    else:
        rest = log_probs.scatter(-1, indices, float("-inf")).logsumexp(-1, keepdim=True).clamp_min(NOTHING)
    return torch.cat([log_probs.gather(-1, indices), rest], -1)


def likeliest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The K likeliest outcomes: `coarse` log-probabilities (..., K + 1), and which they are (..., K)."""
    indices = logits.topk(k, dim=-1).indices
    return coarse(logits, indices), indices


def sum_in_chunks(loss_of: Callable[[slice], Tensor], length: int, chunk: int) -> Tensor:
    """Σ of `loss_of(part)` over parts of at most `chunk` entries, so that only one part's scores are ever held.

    With more than one part, each is computed again in the backward pass (Chen et al. 2016, "Training Deep Nets with
    Sublinear Memory Cost"). Cost: then one more forward of `loss_of`.
    """
    if length <= chunk:
        return loss_of(slice(0, length))
    parts = [
        checkpoint(loss_of, slice(start, min(start + chunk, length)), use_reentrant=False)
        for start in range(0, length, chunk)
    ]
    return torch.stack(parts).sum()


def hidden_distance(student: Tensor, teacher: Tensor, kind: Literal["mse", "cosine"] = "mse") -> Tensor:
    """How far hidden states of one width are apart, (..., D) -> (...) in fp32.

    mse     1/D Σ_d (s_d − t_d)²       (Romero et al. 2015, "FitNets", equation 3; Jiao et al. 2020, "TinyBERT", 7)
    cosine  1 − s · t / (|s| |t|)       (Sanh et al. 2019, "DistilBERT", section 3)
    """
    student, teacher = student.float(), teacher.float()
    if kind == "cosine":
        return 1.0 - functional.cosine_similarity(student, teacher, dim=-1)
    return (student - teacher).square().mean(-1)


def attention_distance(student: Tensor, teacher: Tensor, kind: Literal["kl", "mse"] = "kl") -> Tensor:
    """How far two attention maps are apart for each query, the mean over heads: (B, H, T, S) -> (B, T) in fp32.

    kl   Σ_s a_s (log a_s − log b_s), a the teacher's       (Wang et al. 2020, "MiniLM", equation 6)
    mse  Σ_s (a_s − b_s)²                                   (Jiao et al. 2020, "TinyBERT", equation 6, on the weights)
    """
    student, teacher = student.float(), teacher.float()
    if kind == "mse":
        return (student - teacher).square().sum(-1).mean(1)
    least = torch.finfo(torch.float32).tiny  # a masked key has exactly 0 in both, and 0 log 0 = 0
    kl_BHT = (torch.xlogy(teacher, teacher) - torch.xlogy(teacher, student.clamp_min(least))).sum(-1)
    return kl_BHT.mean(1)
