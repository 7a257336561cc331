"""Outliers in a stream, on the device: what stands far above everything that was seen."""

import dataclasses

import torch
from torch import Tensor

_SIGMA = 1.2533
"""mean absolute deviation → standard deviation, for a normal distribution: √(π/2)"""
_FLOOR = 0.1
"""the least spread that is believed, in logarithms: ten percent"""
_MEMORY = 64
_FADE = 0.998


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """What is remembered of K streams of positive numbers: (K,) each, but `count`, which they share."""

    middle_K: Tensor
    spread_K: Tensor
    peak_K: Tensor
    count: Tensor

    @classmethod
    def new(cls, num_streams: int, device: torch.device | str = "cpu") -> "Levels":
        zeros_K = torch.zeros(num_streams, device=device)
        return cls(middle_K=zeros_K, spread_K=zeros_K, peak_K=zeros_K, count=torch.zeros((), device=device))


def robust_z(now_K: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """(z_K, jump_K): distance of log x from its running middle in running spreads, and x over the peak so far.

    Logarithms, since losses and norms of gradients jitter in proportion to their size.
    """
    log_K = now_K.abs().clamp(min=1e-12).log()
    z_K = (log_K - levels.middle_K) / (_SIGMA * levels.spread_K + _FLOOR)
    return z_K, now_K.abs() / levels.peak_K.clamp(min=1e-12)


def taken_in(now_K: Tensor, levels: Levels, take: Tensor) -> Levels:
    """The levels with x taken in where `take` (a boolean) is true, without a branch:

        m ← m + r ψ(log x − m),    s ← s + r (|ψ(log x − m)| − s),    peak ← max(|x|, 0.998 peak)

    r = max(1/(n+1), 1/64); ψ cuts what is more than three spreads away, so that one wild value moves little (the
    recursive M-estimate of Huber 1981, Robust Statistics, section 3.2).
    """
    away_K = now_K.abs().clamp(min=1e-12).log() - levels.middle_K
    first = levels.count == 0
    bound_K = torch.where(first, torch.inf, 3 * (_SIGMA * levels.spread_K + _FLOOR))
    away_K = torch.minimum(torch.maximum(away_K, -bound_K), bound_K)
    rate = (1 / (levels.count + 1)).clamp(min=1 / _MEMORY)
    spread_K = torch.where(first, 0.0, levels.spread_K + rate * (away_K.abs() - levels.spread_K))
    return Levels(
        middle_K=torch.where(take, levels.middle_K + rate * away_K, levels.middle_K),
        spread_K=torch.where(take, spread_K, levels.spread_K),
        peak_K=torch.where(take, torch.maximum(now_K.abs(), _FADE * levels.peak_K), levels.peak_K),
        count=levels.count + take,
    )
