"""Attention by blocks of queries: two batched matrix products with the masked softmax between them in C++.

    out_q = sum_k softmax_k(scale q.k) v_k, over the keys k that q may attend to

The probabilities are remade in the backward pass from the log-sum-exp of each row, as in FlashAttention (Dao 2023,
arXiv:2307.08691, algorithm 2), but a block of queries meets all its keys at once: the products stay large, which is
what a CPU wants, and no running maximum is needed. Keys outside a block's reach (later ones under causality, other
documents of a packed row) are never multiplied. Registered as a torch operator, so that torch.compile passes over it.
Where the processor multiplies pairs of bf16, `heads` does the same without a tensor between the steps.

`codes` (B, T), int32: |code| is the segment, one or more, that a token belongs to; a token attends to keys whose code
equals its own segment, so a negative code marks a key (padding) that nobody attends to. A query that may attend to
nothing gives zeros.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.core.errors import DanluError
from danlu.models.kernels import build, heads
from danlu.models.kernels.scratch import scratch

QUERIES = 128
# Scores of one block that still mostly live in the shared cache.
BLOCK_ELEMENTS = 2**21
# One loop step costs about as much as this many scores; it decides whether rows of a batch go together.
STEP_ELEMENTS = 2**16

KINDS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class _Block(ctypes.Structure):
    # Field by field the struct Block of csrc/attention.cpp.
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "kv_heads", "groups", "queries", "num_keys")),
        *((name, ctypes.c_int64) for name in ("first_batch", "first_query", "first_key", "length")),
        ("codes", ctypes.c_void_p),
        ("causal", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("dropout", ctypes.c_float),
        ("seed", ctypes.c_uint64),
        ("threads", ctypes.c_int),
    ]


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """Queries [start, stop) of batch rows [first, last) against keys [low, high)."""

    first: int
    last: int
    start: int
    stop: int
    low: int
    high: int


class _Layout:
    """The tensors of one call ordered by key-value head, and how the work is cut."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, codes: Tensor | None, causal: bool) -> None:
        self.B, heads, self.T, self.D = query.shape
        self.heads, self.kv_heads, self.value_dim = heads, key.shape[1], value.shape[-1]
        self.groups = heads // self.kv_heads
        self.causal = causal
        self.codes = None if codes is None else codes.contiguous()
        self.query = query.reshape(self.B, self.kv_heads, self.groups, self.T, self.D)
        self.key, self.value = key.contiguous(), value.contiguous()
        loaded = build.library()
        if loaded is None:
            raise DanluError("blocked attention was called without its kernels", mend="Use the attention named sdpa")
        self.library, self.kind = loaded, KINDS[query.dtype]

    def units(self) -> Iterator[_Unit]:
        """Cuts the work so that a block's scores stay in cache and masked blocks are left out."""
        starts = range(0, self.T, QUERIES)
        spans = self._spans(len(starts))
        for rows in self._row_groups(spans):
            for i, start in enumerate(starts):
                reach = [spans[b][i] for b in rows if spans[b][i][1] > 0]
                low, high = (min(s[0] for s in reach), max(s[1] for s in reach)) if reach else (0, 1)
                stop = min(start + QUERIES, self.T)
                fit = max(1, BLOCK_ELEMENTS // (self.heads * (stop - start) * (high - low)))
                for first in range(rows.start, rows.stop, fit):
                    last = min(first + fit, rows.stop)
                    yield _Unit(first=first, last=last, start=start, stop=stop, low=low, high=high)

    def _spans(self, num_blocks: int) -> list[list[tuple[int, int]]]:
        if self.codes is None:
            row = [(0, min((i + 1) * QUERIES, self.T) if self.causal else self.T) for i in range(num_blocks)]
            return [row] * self.B
        low, high = (torch.empty(self.B, num_blocks, dtype=torch.int64) for _ in range(2))
        self.library.key_ranges(
            self.codes.data_ptr(), self.B, self.T, QUERIES, self.causal, low.data_ptr(), high.data_ptr()
        )
        return [list(zip(*pair, strict=True)) for pair in zip(low.tolist(), high.tolist(), strict=True)]

    def _row_groups(self, spans: list[list[tuple[int, int]]]) -> list[range]:
        # Together the rows need the union of their keys at every block; apart they need more, smaller products.
        weight = QUERIES * self.heads
        apart = sum(high - low for row in spans for low, high in row) * weight + self.B * len(spans[0]) * STEP_ELEMENTS
        unions = [
            max(row[i][1] for row in spans) - min(row[i][0] for row in spans if row[i][1] > 0)
            for i in range(len(spans[0]))
            if any(row[i][1] > 0 for row in spans)
        ]
        together = sum(unions) * self.B * weight + len(spans[0]) * STEP_ELEMENTS
        return [range(self.B)] if together <= apart else [range(b, b + 1) for b in range(self.B)]

    def block(self, unit: _Unit, scale: float, dropout: float, seed: int) -> _Block:
        return _Block(
            batch=unit.last - unit.first,
            kv_heads=self.kv_heads,
            groups=self.groups,
            queries=unit.stop - unit.start,
            num_keys=unit.high - unit.low,
            first_batch=unit.first,
            first_query=unit.start,
            first_key=unit.low,
            length=self.T,
            codes=None if self.codes is None else self.codes.data_ptr(),
            causal=self.causal,
            scale=scale,
            dropout=dropout,
            seed=seed,
            threads=torch.get_num_threads(),
        )

    def queries_of(self, tensor: Tensor, unit: _Unit) -> Tensor:
        """(B, KV, G, T, D) -> the unit's (n, G * queries, D), n = batch rows * key-value heads."""
        part = tensor[unit.first : unit.last, :, :, unit.start : unit.stop]
        return part.reshape(-1, self.groups * (unit.stop - unit.start), tensor.shape[-1])

    def keys_of(self, tensor: Tensor, unit: _Unit) -> Tensor:
        """(B, KV, T, D) -> the unit's (n, keys, D), a view."""
        return tensor[unit.first : unit.last].flatten(0, 1)[:, unit.low : unit.high]

    def scores_of(self, name: str, rows: Tensor, keys: Tensor) -> Tensor:
        """rows (n, R, D) and keys (n, L, D) -> their products (n, R, L) in kept memory."""
        shape = (rows.shape[0], rows.shape[1], keys.shape[1])
        return torch.bmm(rows, keys.transpose(1, 2), out=scratch(name, shape, rows.dtype, rows.device))

    def ungrouped(self, unit: _Unit, part: Tensor) -> Tensor:
        """The unit's (n, G * queries, D) -> (batch rows, KV, G, queries, D), a view."""
        shape = (unit.last - unit.first, self.kv_heads, self.groups, unit.stop - unit.start)
        return part.view(*shape, part.shape[-1])


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    codes: Tensor | None,
    *,
    scale: float,
    causal: bool,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """query (B, H, T, D), key and value (B, KV, T, D) in fp32 or bf16 -> out (B, T, H, D), lse (B, H, T) in fp32."""
    if heads.fit(query, value):
        return heads.forward(query, key, value, codes, scale=scale, causal=causal, dropout=dropout, seed=seed)
    layout = _Layout(query, key, value, codes, causal)
    out_BTHD = query.new_empty(layout.B, layout.T, layout.heads, layout.value_dim)
    out_view = out_BTHD.view(layout.B, layout.T, layout.kv_heads, layout.groups, layout.value_dim)
    lse_BHT = torch.empty(layout.B, layout.heads, layout.T)
    kernel = getattr(layout.library, f"softmax_forward_{layout.kind}")
    for unit in layout.units():
        scores = layout.scores_of("scores", layout.queries_of(layout.query, unit), layout.keys_of(layout.key, unit))
        inverse = torch.empty(scores.shape[:2])
        block = layout.block(unit, scale, dropout, seed)
        kernel(ctypes.byref(block), scores.data_ptr(), inverse.data_ptr(), lse_BHT.data_ptr())
        part = torch.bmm(scores, layout.keys_of(layout.value, unit))
        target = out_view[unit.first : unit.last, unit.start : unit.stop].permute(0, 2, 3, 1, 4)
        torch.mul(layout.ungrouped(unit, part), layout.ungrouped(unit, inverse[..., None]), out=target)
    return out_BTHD, lse_BHT


def backward(
    grad_BTHD: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out_BTHD: Tensor,
    lse_BHT: Tensor,
    codes: Tensor | None,
    *,
    scale: float,
    causal: bool,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value; those of key and value are summed over blocks in fp32."""
    if heads.fit(query, value):
        return heads.backward(
            grad_BTHD, query, key, value, out_BTHD, lse_BHT, codes,
            scale=scale, causal=causal, dropout=dropout, seed=seed,
        )  # fmt: skip
    layout = _Layout(query, key, value, codes, causal)
    delta_BHT = torch.linalg.vecdot(grad_BTHD.float(), out_BTHD.float()).transpose(1, 2).contiguous()
    grad = grad_BTHD.view(layout.B, layout.T, layout.kv_heads, layout.groups, layout.value_dim).permute(0, 2, 3, 1, 4)
    grad_query = torch.empty_like(layout.query, memory_format=torch.contiguous_format)
    grad_key, grad_value = (torch.zeros_like(t, dtype=torch.float32) for t in (layout.key, layout.value))
    kernel = getattr(layout.library, f"softmax_backward_{layout.kind}")
    for unit in layout.units():
        queries, grads = layout.queries_of(layout.query, unit), layout.queries_of(grad, unit)
        keys = layout.keys_of(layout.key, unit)
        scores = layout.scores_of("scores", queries, keys)
        slopes = layout.scores_of("slopes", grads, layout.keys_of(layout.value, unit))
        block = layout.block(unit, scale, dropout, seed)
        kernel(ctypes.byref(block), scores.data_ptr(), slopes.data_ptr(), lse_BHT.data_ptr(), delta_BHT.data_ptr())
        part = layout.ungrouped(unit, torch.bmm(slopes, keys))
        grad_query[unit.first : unit.last, :, :, unit.start : unit.stop] = part
        _add_product(layout.keys_of(grad_key, unit), slopes, queries)
        _add_product(layout.keys_of(grad_value, unit), scores, grads)
    return grad_query.view(query.shape), grad_key.to(key.dtype), grad_value.to(value.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total (n, L, D) in fp32 += left (n, R, L) transposed @ right (n, R, D)."""
    if left.dtype == total.dtype:
        total.baddbmm_(left.transpose(1, 2), right)
    else:
        total.add_(torch.bmm(left.transpose(1, 2), right))
