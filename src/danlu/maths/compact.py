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


@functools.cache
def _tables(signed: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What codes stand for, the middles between them, and for each upper half of an fp32 how many middles lie below.

    Numbers that share their upper 16 bits lie closer together than two middles do, so a table and one comparison find
    a code, nine times as fast as a search.
    """
    values_Q = dynamic_map(signed)
    middles_Q = torch.cat([(values_Q[:-1] + values_Q[1:]) / 2, torch.tensor([torch.inf])])
    halves_H = torch.arange(1 << 16, dtype=torch.int32)
    least_H = (halves_H << 16) | torch.where(halves_H < 1 << 15, 0, 0xFFFF).int()  # the least number of each half
    below_H = torch.bucketize(least_H.view(torch.float32), middles_Q[:-1], out_int32=True)
    return values_Q.to(device), middles_Q.to(device), below_H.to(device)


def to_codes(x: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """x of any shape → (codes, largest): (M, 256) uint8 and (M,) fp32, the last block filled up with zeros.

        code = argmin_j | q_j − x / max |x in its block| |        (Dettmers et al. 2022, equations 2 and 3)

    Without a sign zero is no choice, but for a block of zeros: a second moment of Adam rounded to zero would divide by
    nothing (Li, Chen, Zhu 2023, arXiv:2309.01507, section 4.1).
    """
    blocks_MB = functional.pad(x.flatten().float(), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    largest_M = blocks_MB.abs().amax(1)
    scaled_N = (blocks_MB / largest_M.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).flatten()
    _, middles_Q, below_H = _tables(signed, x.device)
    below_N = below_H.index_select(0, (scaled_N.view(torch.int32) >> 16) & 0xFFFF)
    codes_N = below_N + (scaled_N > middles_Q.index_select(0, below_N))
    codes_N = codes_N if signed else codes_N.clamp_(min=1)
    return codes_N.to(torch.uint8).view(-1, BLOCK), largest_M


def from_codes(codes_MB: Tensor, largest_M: Tensor, shape: torch.Size, *, signed: bool) -> Tensor:
    """What `to_codes` was given, to within its rounding, in fp32."""
    values_Q, _, _ = _tables(signed, codes_MB.device)
    blocks_MB = values_Q.index_select(0, codes_MB.flatten().int()).view(codes_MB.shape) * largest_M[:, None]
    return blocks_MB.flatten()[: shape.numel()].view(shape)


def to_bf16_by_chance(x: Tensor, generator: torch.Generator) -> Tensor:
    """x (fp32) as bf16, up or down with the chance that makes E[result] = x (Zamirai et al. 2020, section 3.2).

    Adds a random number to the 16 bits that are dropped. Rounding to the nearest would lose every change below 1/256.
    """
    bits = x.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, generator=generator, device=x.device, dtype=torch.int32)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)
