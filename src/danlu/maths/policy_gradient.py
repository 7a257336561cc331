"""Group relative policy optimisation (GRPO, Shao et al. 2024, arXiv:2402.03300), token by token.

Rows of a group are completions of one prompt; a completion's advantage is how much better it did than its group.
"""

import torch
from torch import Tensor


def group_advantages(rewards_GN: Tensor, *, scaled: bool = True) -> Tensor:
    """(G, N): (r - mean) / std within each group of N (section 4.1.2); with `scaled` off r - mean (Liu et al. 2025,
    "Dr. GRPO": dividing by the spread favours prompts that are nearly always or nearly never answered right).

    The spread is the sample's (N - 1 below); a group of equal rewards, or of one, has no advantages.
    """
    centred_GN = rewards_GN - rewards_GN.mean(1, keepdim=True)
    return centred_GN / (group_spread(rewards_GN)[:, None] + 1e-4) if scaled else centred_GN


def group_spread(rewards_GN: Tensor) -> Tensor:
    """(G,): the sample's standard deviation of each group, 0 for a group of one."""
    return rewards_GN.std(1) if rewards_GN.shape[1] > 1 else torch.zeros_like(rewards_GN[:, 0])


def clipped_surrogate(policy: Tensor, old: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    """min(ρ A, clip(ρ, 1 - low, 1 + high) A), ρ = π(o_t) / π_old(o_t), from log-probabilities (eq. 3, inside the sum).

    Two bounds as in DAPO (Yu et al. 2025, eq. 10); equal ones are GRPO's.
    """
    ratio = torch.exp(policy - old)
    return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    """π_ref/π - log π_ref/π - 1 ≥ 0, whose mean over π's own tokens is KL(π ‖ π_ref) (eq. 4; Schulman 2020)."""
    apart = reference - policy
    return torch.exp(apart) - apart - 1
