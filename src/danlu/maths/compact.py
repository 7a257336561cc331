"""Numbers in fewer bits: blocks of 8-bit codes, and bf16 by chance."""

import functools

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256


@functools.cache
def dynamic_map(signed: bool) -> Tensor:
    """(256,) the values in [-1, 1], or [0, 1], that a code stands for, ascending.

    Dynamic tree quantisation (Dettmers 2016, arXiv:1511.04561, section 2.2; Dettmers et al. 2022, arXiv:2110.02861,
    section 1.3): a code has an exponent of base ten, told by its leading zeros, and gives what bits are left to a
    linear fraction of [0.1, 1], so that small numbers keep their size and large ones their digits. Without a sign one
    bit more goes to the fraction.
    """
    positive = []
    for exponent in range(7):
        edges = torch.linspace(0.1, 1.0, 2 ** (exponent + (not signed)) + 1, dtype=torch.float64)
        positive.append(10.0 ** (exponent - 6) * (edges[:-1] + edges[1:]) / 2)
    values = torch.cat(positive)
    rest = [-values] if signed else []
    return torch.cat([*rest, values, torch.tensor([0.0, 1.0])]).sort().values.float()


def to_codes(x: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """x of any shape → (codes, largest): (M, 256) uint8 and (M,) fp32, the last block filled up with zeros.

        code = argmin_j | q_j − x / max |x in its block| |        (Dettmers et al. 2022, equations 2 and 3)

    Without a sign zero is no choice, but for a block of zeros: a second moment of Adam rounded to zero would divide by
    nothing (Li, Chen, Zhu 2023, arXiv:2309.01507, section 4.1).
    """
    blocks_MB = functional.pad(x.flatten().float(), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    largest_M = blocks_MB.abs().amax(1)
    values_Q = dynamic_map(signed).to(x.device)
    middles_Q = (values_Q[:-1] + values_Q[1:]) / 2
    scaled_MB = blocks_MB / largest_M.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    codes_MB = torch.bucketize(scaled_MB, middles_Q, out_int32=True)
    return (codes_MB if signed else codes_MB.clamp_(min=1)).to(torch.uint8), largest_M


def from_codes(codes_MB: Tensor, largest_M: Tensor, shape: torch.Size, *, signed: bool) -> Tensor:
    """What `to_codes` was given, to within its rounding, in fp32."""
    values_Q = dynamic_map(signed).to(codes_MB.device)
    return (values_Q[codes_MB.int()] * largest_M[:, None]).flatten()[: shape.numel()].view(shape)


def to_bf16_by_chance(x: Tensor, generator: torch.Generator) -> Tensor:
    """x (fp32) as bf16, up or down with the chance that makes E[result] = x (Zamirai et al. 2020, section 3.2).

    Adds a random number to the 16 bits that are dropped. Rounding to the nearest would lose every change below 1/256.
    """
    bits = x.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, generator=generator, device=x.device, dtype=torch.int32)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)
