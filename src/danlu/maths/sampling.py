"""Sampling: how often an example should come, by the size of its group, by its loss, or by how hard it is."""

import math

import torch
from torch import Tensor


def effective_number(counts_G: Tensor, beta: float) -> Tensor:
    """(1 - β^n) / (1 - β), n itself for β = 1: Cui et al. 2019, arXiv:1901.05555, proposition 1. fp64."""
    counts_G = counts_G.double()
    if beta in (0.0, 1.0):
        return counts_G if beta == 1.0 else (counts_G > 0).double()
    return -torch.expm1(counts_G * math.log(beta)) / (1 - beta)


def importance(losses_N: Tensor, uniform: float) -> Tensor:
    """(N,) of mean 1: N p_i = (1 - λ) l_i / mean(l) + λ. Losses that are not known (NaN) count as the mean. fp64."""
    losses_N = losses_N.double()
    mean = losses_N.nanmean()
    if not mean > 0:  # none is known, or all are zero
        return torch.ones_like(losses_N)
    return (1 - uniform) * torch.where(losses_N.isnan(), mean, losses_N) / mean + uniform


def rank_among(losses_N: Tensor, seen_M: Tensor) -> Tensor:
    """The share of `seen` that is not above each loss: the empirical distribution function. In [0, 1], fp64."""
    return torch.searchsorted(seen_M.sort().values, losses_N.contiguous(), right=True).double() / max(len(seen_M), 1)


def competence(progress: float, start: float, power: float) -> float:
    """min(1, (t (1 - c₀^p) + c₀^p)^(1/p)): c_root-p of Platanios et al. 2019, arXiv:1903.09848."""
    return min(1.0, (progress * (1 - start**power) + start**power) ** (1 / power))


def reweighed(shares_G: Tensor, excess_G: Tensor, step: float, smoothing: float) -> Tensor:
    """α_g exp(η λ_g), brought to sum 1, and mixed with c of the uniform: Xie et al. 2023, arXiv:2305.10429, alg. 1."""
    raised_G = torch.softmax(shares_G.log() + step * excess_G, 0)
    return (1 - smoothing) * raised_G + smoothing / len(shares_G)
