"""Losses of alignment from preferences, row by row, from log-probabilities of whole completions.

A pair's margin is h = log π(y_w|x)/π_ref(y_w|x) - log π(y_l|x)/π_ref(y_l|x), y_w being the chosen and y_l the rejected
completion; an implicit reward is r = β log π(y|x)/π_ref(y|x).
"""

import torch
from torch import Tensor
from torch.nn import functional


def dpo_losses(margins_B: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """(B,): -(1 - ε) log σ(β h) - ε log σ(-β h).

    Direct preference optimisation (Rafailov et al. 2023, eq. 7); ε is the chance that a pair is labelled the wrong way
    round (conservative DPO, Mitchell 2023, eq. 3).
    """
    right_B, wrong_B = functional.logsigmoid(beta * margins_B), functional.logsigmoid(-beta * margins_B)
    return -(1 - label_smoothing) * right_B - label_smoothing * wrong_B


def ipo_losses(margins_B: Tensor, *, beta: float) -> Tensor:
    """(B,): (h - 1 / (2β))², a margin to come to and not to pass (Azar et al. 2023, eq. 17, β being their τ)."""
    return (margins_B - 1 / (2 * beta)) ** 2


def hinge_losses(margins_B: Tensor, *, beta: float) -> Tensor:
    """(B,): max(0, 1 - β h), no more push once the margin is wide (Zhao et al. 2023; Liu et al. 2023, eq. 11)."""
    return torch.relu(1 - beta * margins_B)


def orpo_losses(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """(B,): -log P(y_w) - β log σ(log odds(y_w) - log odds(y_l)), odds(y) = P(y) / (1 - P(y)).

    Hong et al. 2024, eq. 6 and 7 (β being their λ); the arguments are log P, the mean over a completion's tokens
    (eq. 1), so no reference is needed.
    """
    odds_B = (chosen_B - rejected_B) - (_log_not(chosen_B) - _log_not(rejected_B))
    return -chosen_B - beta * functional.logsigmoid(odds_B)


def kto_losses(
    ratios_B: Tensor, desirable_B: Tensor, divergence: Tensor, *, beta: float, desirable: float, undesirable: float
) -> Tensor:
    """(B,): λ_y - v(x, y), v = λ_D σ(β (log π/π_ref - z)) if desirable, else λ_U σ(β (z - log π/π_ref)).

    Ethayarajh et al. 2024, eq. 8. `ratios_B` is log π(y|x)/π_ref(y|x); `divergence` is z, which carries no gradient.
    """
    signs_B = torch.where(desirable_B, 1.0, -1.0)
    weights_B = torch.where(desirable_B, desirable, undesirable)
    return weights_B * (1 - torch.sigmoid(beta * signs_B * (ratios_B - divergence.detach())))


def kto_divergence(ratios_B: Tensor, counted_B: Tensor) -> Tensor:
    """z = max(0, mean of log π(y'|x)/π_ref(y'|x)) over other prompts' completions y' (Ethayarajh et al. 2024, 4.1)."""
    counted_B = counted_B.to(ratios_B.dtype)
    return ((ratios_B * counted_B).sum() / counted_B.sum().clamp(min=1)).clamp(min=0).detach()


def _log_not(log_p_B: Tensor) -> Tensor:
    """log(1 - p); p of nearly 1 is taken for the largest number below it."""
    return torch.log1p(-torch.exp(log_p_B).clamp(max=1 - 1e-6))
