"""Metrics of ranking where one item is right: from the rank that each true item reached among all."""

import torch
from torch import Tensor


def pessimistic_ranks(scores_BV: Tensor, targets_B: Tensor) -> Tensor:
    """The rank of each target, 1 at best: how many items score as high or higher. Ties count against it, so that a
    model which scores all alike is last and not first; so does NaN, and a target scored -inf is last. (B,) int64.
    """
    target_scores_B1 = scores_BV.gather(1, targets_B[:, None])
    return scores_BV.shape[1] - (scores_BV < target_scores_B1).sum(1)


def hit_rate(ranks_N: Tensor, k: int) -> float:
    """HR@k: the share of targets among the first k. With one target a list it equals recall@k."""
    return float((ranks_N <= k).double().mean())


def ndcg(ranks_N: Tensor, k: int) -> float:
    """NDCG@k = mean of 1 / log₂(1 + rank) where rank ≤ k, else 0 (Järvelin and Kekäläinen 2002; the ideal is 1)."""
    gains_N = (1.0 + ranks_N.double()).log2().reciprocal()
    return float(torch.where(ranks_N <= k, gains_N, 0.0).mean())


def reciprocal_rank(ranks_N: Tensor, k: int) -> float:
    """MRR@k: the mean of 1 / rank where rank ≤ k, else 0."""
    return float(torch.where(ranks_N <= k, ranks_N.double().reciprocal(), 0.0).mean())
