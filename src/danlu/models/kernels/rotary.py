"""The rotary position embedding in one pass forward and one backward.

transformers writes it as seven operations a tensor, in a function of the same name and form in each of some 170 model
files, which the attention looks up there; so that name is what is pointed here, once, for the model at hand. The
function goes to the original wherever the kernel does not fit, so other models of the same file stay right.
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from danlu.models.kernels import build

NAME = "apply_rotary_pos_emb"
KINDS = {torch.float32: "f32", torch.bfloat16: "bf16"}
Rotate = Callable[..., tuple[Tensor, Tensor]]


class _Rotary(ctypes.Structure):
    # Field by field the struct Rotary of csrc/layers.cpp.
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("B", "H", "T", "D")),
        *((name, ctypes.c_int64) for name in ("from_b", "from_h", "from_t", "to_b", "to_h", "to_t", "angle_b")),
        ("back", ctypes.c_int),
        ("threads", ctypes.c_int),
    ]


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype, library: Any) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype, ctx.library = x.dtype, library
        # Heads before time, which is how attention reads it.
        return _run(x, cos, sin, torch.empty(x.shape, dtype=dtype), False, library)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        B, H, T, D = grad.shape
        # Time before heads, which is how the projection before it reads it.
        out = torch.empty(B, T, H, D, dtype=ctx.dtype).transpose(1, 2)
        cos, sin = ctx.saved_tensors
        return _run(grad, cos, sin, out, True, ctx.library), None, None, None, None


def _run(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, back: bool, library: Any) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    B, H, T, D = x.shape
    shape = _Rotary(
        B, H, T, D, *x.stride()[:3], *out.stride()[:3], T * D if cos.shape[0] > 1 else 0, back, torch.get_num_threads()
    )
    kernel = getattr(library, f"rotary_{KINDS[x.dtype]}_{KINDS[out.dtype]}")
    kernel(ctypes.byref(shape), x.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr())
    return out


def rotate(original: Rotate, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **options: Any) -> Any:
    """`original(q, k, cos, sin)`, by the kernel if it fits; q, k (B, heads, T, D), cos, sin (B or 1, T, D)."""
    library = build.library() if _fits(q, k, cos, sin) and not rest and not options else None
    if library is None:
        return original(q, k, cos, sin, *rest, **options)
    # Under autocast attention takes bf16 in any case; else the types are those of the plain operations.
    low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    floats = cos.float().contiguous(), sin.float().contiguous()
    types = [low if low in KINDS else torch.result_type(x, cos) for x in (q, k)]
    return tuple(_Rotate.apply(x, *floats, dtype, library) for x, dtype in zip((q, k), types, strict=True))


def _fits(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    plain = all(t.device.type == "cpu" and t.dtype in KINDS for t in (q, k, cos, sin))
    whole = q.ndim == k.ndim == 4 and cos.ndim == 3 and q.shape[-1] == k.shape[-1] == cos.shape[-1]
    place = whole and cos.shape[0] in (1, q.shape[0]) and q.shape[2] == k.shape[2] == cos.shape[1]
    return plain and place and sin.shape == cos.shape and not cos.requires_grad and not torch.compiler.is_compiling()


def fuse(model: nn.Module) -> int:
    """Points the rotary function of the model's own files at the kernel; says how many files it changed.

    The function is tried first: one that gives other fp32 numbers than the kernel (another layout, another meaning) is
    left alone. The change is for the process, as these functions belong to transformers' modules.
    """
    files = {type(module).__module__ for module in model.modules()}
    return sum(_point(sys.modules[name]) for name in sorted(files) if name.startswith("transformers.models."))


def _point(file: Any) -> bool:
    original = getattr(file, NAME, None)
    if original is None or isinstance(original, functools.partial):
        return False
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=generator) for heads in (4, 2))
    cos, sin = (torch.randn(2, 3, 8, generator=generator) for _ in range(2))
    pointed = functools.partial(rotate, original)
    try:
        before, after = original(q, k, cos, sin), pointed(q, k, cos, sin)
        same = all(torch.allclose(one, two, atol=1e-5) for one, two in zip(before, after, strict=True))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    if same:
        setattr(file, NAME, pointed)
    return same
