"""Losses as sums over valid targets: the plain reference that faster kernels are held against."""

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy_sum(
    logits_NV: Tensor,
    labels_N: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    weights_N: Tensor | None = None,
) -> Tensor:
    """The cross-entropy Σ_n w_n [(1 - ε) (-log p_n,y) + ε/V Σ_v (-log p_n,v)], a scalar in fp32.

    Label smoothing follows Szegedy et al. 2016, section 7. Positions labelled `ignore_index` add nothing. The softmax
    is taken in fp32 whatever the logits' type is.
    """
    losses_N = functional.cross_entropy(
        logits_NV.float(), labels_N, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none"
    )
    return losses_N.sum() if weights_N is None else torch.dot(losses_N, weights_N.to(losses_N.dtype))
