"""Attention a head at a time, in C++ alone: for bf16 on processors that multiply pairs of it (AVX-512 BF16).

What `blocks` does with torch's products, csrc/heads.cpp does while a block of queries is in the cache, with no tensor
between; the formulas, the masks and the draws of dropout are the same.
"""

import ctypes

import torch
from torch import Tensor

from danlu.models.kernels import build
from danlu.models.kernels.scratch import scratch

LANES = 16


class _Heads(ctypes.Structure):
    # Field by field the struct Heads of csrc/heads.cpp.
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("B", "H", "KV", "T", "D")),
        *((name, ctypes.c_int64 * 3) for name in ("query", "key", "value")),
        ("codes", ctypes.c_void_p),
        ("causal", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("dropout", ctypes.c_float),
        ("seed", ctypes.c_uint64),
        ("threads", ctypes.c_int),
    ]


def fit(query: Tensor, value: Tensor) -> bool:
    """Whether these heads can be computed here: bf16, as wide as the lanes want, keys as wide as values."""
    width = query.shape[-1]
    if query.dtype != torch.bfloat16 or width % LANES or value.shape[-1] != width:
        return False
    library = build.library()
    return library is not None and bool(library.heads_available())


def _whole(x: Tensor) -> Tensor:
    """With a dense last axis and even strides, since two numbers are read at a time."""
    return x if x.stride(-1) == 1 and not any(stride % 2 for stride in x.stride()[:3]) else x.contiguous()


def _heads(
    query: Tensor, key: Tensor, value: Tensor, codes: Tensor | None, scale: float, causal: bool, dropout: float,
    seed: int,
) -> _Heads:  # fmt: skip
    strides = ((ctypes.c_int64 * 3)(*tensor.stride()[:3]) for tensor in (query, key, value))
    B, H, T, D = query.shape
    place = None if codes is None else codes.data_ptr()
    return _Heads(
        B, H, key.shape[1], T, D, *strides, place, causal, scale, dropout, seed, torch.get_num_threads()
    )  # fmt: skip


def forward(
    query: Tensor, key: Tensor, value: Tensor, codes: Tensor | None,
    *, scale: float, causal: bool, dropout: float, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """query (B, H, T, D), key and value (B, KV, T, D) -> out (B, T, H, D), lse (B, H, T) in fp32."""
    query, key, value = _whole(query), _whole(key), _whole(value)
    codes = None if codes is None else codes.contiguous()
    B, H, T, D = query.shape
    out_BTHD, lse_BHT = query.new_empty(B, T, H, D), torch.empty(B, H, T)
    work = _heads(query, key, value, codes, scale, causal, dropout, seed)
    tensors = (query, key, value, out_BTHD, lse_BHT)
    build.library().heads_forward(ctypes.byref(work), *(tensor.data_ptr() for tensor in tensors))  # type: ignore[union-attr]
    return out_BTHD, lse_BHT


def backward(
    grad_BTHD: Tensor, query: Tensor, key: Tensor, value: Tensor, out_BTHD: Tensor, lse_BHT: Tensor,
    codes: Tensor | None, *, scale: float, causal: bool, dropout: float, seed: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of query, key and value; those of key and value are summed in fp32, head by head."""
    query, key, value = _whole(query), _whole(key), _whole(value)
    codes = None if codes is None else codes.contiguous()
    grads = [torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in (query, key, value)]
    sums = scratch("attention", (2, *query.shape), torch.float32, query.device)
    work = _heads(query, key, value, codes, scale, causal, dropout, seed)
    tensors = (grad_BTHD, query, key, value, out_BTHD, lse_BHT, *grads, sums)
    build.library().heads_backward(ctypes.byref(work), *(tensor.data_ptr() for tensor in tensors))  # type: ignore[union-attr]
    return grads[0], grads[1], grads[2]
