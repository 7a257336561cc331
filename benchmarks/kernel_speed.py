"""Kernels side by side with what they replace, interleaved in one run: `python benchmarks/kernel_speed.py`.

Prints the shortest of several runs, forward + backward, and the ratio: on a shared machine others only add time. bf16
is measured where the processor multiplies it, else fp32 with the same matrix products on both sides. (A script called
kernels.py would hide the package of that name which transformers looks for.)
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from danlu.models import kernels
from danlu.models.kernels import layers, rotary
from danlu.models.kernels.attention import attention_forward, dense_mask, packed_mask

REPEATS = 4
HEADS = [(2048, 384, 8192), (1024, 576, 49152)]
ATTENTIONS = [(8, 6, 2, 256, 64), (2, 12, 12, 512, 64), (1, 9, 3, 2048, 64)]
DOCUMENT_TOKENS = 100


def compare(name: str, before: Callable[[], object], after: Callable[[], object]) -> None:
    """Runs both in turn, the first time untimed, and prints one line."""
    times: dict[str, list[float]] = {"before": [], "after": []}
    for i in range(REPEATS + 1):
        for label, run in (("before", before), ("after", after)):
            start = time.perf_counter()
            run()
            if i:
                times[label].append((time.perf_counter() - start) * 1e3)
    old, new = (min(times[label]) for label in ("before", "after"))
    print(f"{name:58} {old:9.1f} ms {new:9.1f} ms {old / new:6.2f}x", flush=True)


def head(N: int, D: int, V: int, labelled: float, autocast: bool, frozen: bool) -> None:
    hidden_ND = torch.randn(N, D, requires_grad=True)
    weight_VD = (torch.randn(V, D) * D**-0.5).requires_grad_(not frozen)
    labels_N = torch.randint(V, (N,))
    labels_N[torch.rand(N) >= labelled] = -100
    leaves = [t for t in (hidden_ND, weight_VD) if t.requires_grad]

    def unfused() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits_NV = functional.linear(hidden_ND, weight_VD)
        torch.autograd.grad(functional.cross_entropy(logits_NV.float(), labels_N, reduction="sum") / N, leaves)

    def fused() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = kernels.linear_cross_entropy(hidden_ND, weight_VD, labels_N)
        torch.autograd.grad(loss / N, leaves)  # type: ignore[operator]

    kind = ", frozen" if frozen else ""
    compare(f"head and loss, {N} x {D} x {V}, {labelled:.0%} labelled{kind}", unfused, fused)


def attention(shape: tuple[int, int, int, int, int], packed: bool, autocast: bool) -> None:
    B, H, KV, T, D = shape
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, H // KV
    leaves = [torch.randn(B, T, heads, D).transpose(1, 2).requires_grad_() for heads in (H, KV, KV)]
    cuts_BT = torch.rand(B, T) < 1 / DOCUMENT_TOKENS
    mask = packed_mask(cuts_BT.cumsum(1), causal=True) if packed else None
    dense = None if mask is None else dense_mask(mask)
    grad = torch.randn(B, T, H, D)

    def run(function: Callable[..., tuple[Tensor, None]], mask: Tensor | None) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = function(module, *leaves, mask)[0]
        torch.autograd.grad(out, leaves, grad.to(out.dtype))

    name = f"attention, B H KV T D = {shape}{', packed' if packed else ''}"
    compare(name, lambda: run(sdpa_attention_forward, dense), lambda: run(attention_forward, mask))


def parts(B: int, T: int, D: int, autocast: bool) -> None:
    """The operations of a Llama-like layer between its products, in the types they have in training."""
    low = torch.bfloat16 if autocast else torch.float32
    x, weight = torch.randn(B, T, D, requires_grad=True), torch.ones(D, requires_grad=True)
    gate, up = (torch.randn(B, T, 3 * D, dtype=low, requires_grad=True) for _ in range(2))
    q, k = (torch.randn(B, T, heads, 64, dtype=low).transpose(1, 2).requires_grad_() for heads in (D // 64, D // 192))
    cos, sin = torch.randn(1, T, 64), torch.randn(1, T, 64)
    norm = LlamaRMSNorm(D)

    def run(function: Callable[[], tuple[Tensor, ...]], leaves: list[Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outs = [out.to(low) for out in function()]
        torch.autograd.grad(outs, leaves, [torch.ones_like(out) for out in outs])

    pairs: dict[str, tuple[Callable[[], tuple[Tensor, ...]], Callable[[], tuple[Tensor, ...]], list[Tensor]]] = {
        "RMSNorm": (lambda: (norm(x),), lambda: (layers.rms_norm(x, weight, 1e-6),), [x]),
        "gated SiLU": (lambda: (functional.silu(gate) * up,), lambda: (layers.gated_silu(gate, up),), [gate, up]),
        "rotary": (
            lambda: apply_rotary_pos_emb(q, k, cos, sin),
            lambda: rotary.rotate(apply_rotary_pos_emb, q, k, cos, sin),
            [q, k],
        ),
    }
    for name, (before, after, leaves) in pairs.items():
        compare(f"{name}, {B} x {T} x {D}", partial(run, before, leaves), partial(run, after, leaves))


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    status, autocast = kernels.status(), kernels.fast_bf16()
    torch.set_float32_matmul_precision("medium")
    print(f"{'bf16 autocast' if autocast else 'fp32, medium'}; kernels: {status.reason}\n")
    print(f"{'forward + backward':58} {'torch':>12} {'danlu':>12}")
    parts(8, 256, 384, autocast)
    for N, D, V in HEADS:
        for labelled, frozen in ((1.0, False), (1.0, True), (0.3, False)):
            head(N, D, V, labelled, autocast, frozen)
    for shape in ATTENTIONS:
        attention(shape, packed=False, autocast=autocast)
        attention(shape, packed=True, autocast=autocast)


if __name__ == "__main__":
    main()
