"""Losses row by row: the plain reference that faster kernels are held against."""

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropies(
    logits_NV: Tensor,
    labels_N: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(losses, plain), (N,) in fp32: (1 - ε) focal(l) + ε/V Σ_v (-log p_v), and l = -log p_y alone, without gradient.

    Label smoothing follows Szegedy et al. 2016, section 7. Rows labelled `ignore_index` have loss zero. The softmax is
    taken in fp32 whatever the logits' type is.
    """
    logp_NV = functional.log_softmax(logits_NV.float(), dim=-1)
    plain_N = functional.nll_loss(logp_NV, labels_N, ignore_index=ignore_index, reduction="none")
    losses_N = focal(plain_N, focal_gamma)
    if label_smoothing > 0:
        doubt_N = -logp_NV.mean(-1).masked_fill(labels_N == ignore_index, 0.0)
        losses_N = (1 - label_smoothing) * losses_N + label_smoothing * doubt_N
    return losses_N, plain_N.detach()


def weighted_sum(losses_N: Tensor, weights_N: Tensor | None) -> Tensor:
    """Σ_n w_n l_n; plain when there are no weights."""
    return losses_N.sum() if weights_N is None else torch.dot(losses_N, weights_N.to(losses_N.dtype))


def focal(losses_N: Tensor, gamma: float) -> Tensor:
    """(1 - p)^γ l of cross-entropies l = -log p: Lin et al. 2017, arXiv:1708.02002, equation 4. l itself for γ = 0."""
    return losses_N if gamma == 0 else _wrong(losses_N).pow(gamma) * losses_N


def focal_slope(losses_N: Tensor, gamma: float) -> Tensor:
    """d focal / d l = (1 - p)^γ + γ (1 - p)^(γ-1) p l."""
    wrong_N = _wrong(losses_N)
    return wrong_N.pow(gamma) + gamma * wrong_N.pow(gamma - 1) * (1 - wrong_N) * losses_N


def _wrong(losses_N: Tensor) -> Tensor:
    """1 - p, kept off zero, where a power below one has no slope."""
    return (-torch.expm1(-losses_N)).clamp_min(torch.finfo(losses_N.dtype).tiny)
