"""Attention for transformers' models under the name "danlu": blocked on the CPU, torch's own everywhere else.

Two registrations make a model call it. The mask function turns what transformers knows about a batch (causality,
padding, packed documents found from restarting `position_ids`) into a compact mask of one whole number a token instead
of T x T booleans; the attention function takes that to the kernels. Whatever is not understood goes to transformers'
`sdpa` with the mask it would have made, so results are the same everywhere.

The compact mask is int32 looked at as four float8, for which torch has no arithmetic: a model that would add it to its
scores, or join it to another mask, stops with torch's error rather than train on a wrong one. Its shape says how it is
meant: (B, 1, 1, 4T) for attention in both directions, (B, 1, 4T, 1) for causal attention.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sdpa_mask
from transformers.masking_utils import bidirectional_mask_function as both_ways

from danlu.models.kernels import blocks, build

NAME = "danlu"
COMPACT = torch.float8_e5m2
# What transformers passes on for variants of attention that the blocks do not have.
UNSUPPORTED = ("softcap", "s_aux", "position_bias", "cache", "output_attentions")


@torch.library.custom_op("danlu::attention", mutates_args=())
def blocked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    codes: Tensor | None,
    seed: Tensor | None,
    scale: float,
    causal: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Blocked attention as a torch operator: (B, H, T, D) -> out (B, T, H, D), lse (B, H, T). See blocks.py."""
    number = 0 if seed is None else int(seed)
    return blocks.forward(query, key, value, codes, scale=scale, causal=causal, dropout=dropout, seed=number)


@blocked_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    codes: Tensor | None,
    seed: Tensor | None,
    scale: float,
    causal: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    B, H, T, _ = query.shape
    return query.new_empty(B, T, H, value.shape[-1]), query.new_empty(B, H, T, dtype=torch.float32)


@torch.library.custom_op("danlu::attention_backward", mutates_args=())
def blocked_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    codes: Tensor | None,
    seed: Tensor | None,
    scale: float,
    causal: bool,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value of `blocked_attention`."""
    number = 0 if seed is None else int(seed)
    return blocks.backward(
        grad.contiguous(), query, key, value, out, lse, codes, scale=scale, causal=causal, dropout=dropout, seed=number
    )


@blocked_attention_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    # The sizes are given, not the tensors alone: the operator's results are contiguous however its inputs lie.
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, codes, seed, *ctx.options = inputs
    ctx.save_for_backward(query, key, value, *output, codes, seed)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    query, key, value, out, lse, codes, seed = ctx.saved_tensors
    grads = blocked_attention_backward(grad, query, key, value, out, lse, codes, seed, *ctx.options)
    return (*grads, None, None, None, None, None)


blocked_attention.register_autograd(_backward, setup_context=_keep)


def packed_mask(segments_BT: Tensor, *, causal: bool, attend_BT: Tensor | None = None) -> Tensor:
    """The compact mask of rows that hold several documents, to hand to a model as its `attention_mask`.

    Args:
        segments_BT: which document each token belongs to, whole numbers from 0.
        causal: whether a token attends to earlier tokens only.
        attend_BT: false where a token is padding that nobody may attend to.
    """
    codes_BT = segments_BT.to(torch.int32) + 1
    if attend_BT is not None:
        codes_BT = torch.where(attend_BT.bool(), codes_BT, -codes_BT)
    compact = codes_BT.contiguous().view(COMPACT)
    return compact[:, None, :, None] if causal else compact[:, None, None, :]


def is_compact(mask: Tensor | None) -> TypeGuard[Tensor]:
    """Whether a mask is one of ours."""
    return mask is not None and mask.dtype == COMPACT


def _opened(mask: Tensor) -> tuple[Tensor, bool]:
    return mask.flatten(1).view(torch.int32), mask.shape[2] > 1


def dense_mask(mask: Tensor) -> Tensor:
    """A compact mask as the (B, 1, T, T) booleans, true where attended to, that sdpa takes. Memory: B T T bytes."""
    codes_BT, causal = _opened(mask)
    allowed_B1TT = (codes_BT.abs()[:, :, None] == codes_BT[:, None, :])[:, None]
    return allowed_B1TT.tril() if causal else allowed_B1TT


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer: (B, H, T, D) -> (B, T, H, D)."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    if not _fits(query, key, attention_mask, dtype) or _is_variant(kwargs):
        if is_compact(attention_mask):
            attention_mask = dense_mask(attention_mask)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
        )
    codes_BT = None
    if attention_mask is None:
        causal = bool(is_causal if is_causal is not None else getattr(module, "is_causal", True))
    else:
        codes_BT, causal = _opened(attention_mask)
    seed = torch.randint(2**62, (1,)) if dropout > 0 else None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return blocked_attention(query, key, value, codes_BT, seed, scale, causal, dropout)[0], None


def _is_variant(options: dict[str, Any]) -> bool:
    return any(options.get(name) is not None and options[name] is not False for name in UNSUPPORTED)


def _fits(query: Tensor, key: Tensor, mask: Tensor | None, dtype: torch.dtype) -> bool:
    return (
        query.device.type == "cpu"
        and dtype in blocks.KINDS
        and query.shape[0] == key.shape[0]
        and query.shape[2] == key.shape[2] > 1
        and (mask is None or is_compact(mask))
        and build.library() is not None
    )


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor | None:
    """What transformers calls once a forward pass: None (no mask but causality), a compact mask, or sdpa's mask."""
    known = None
    square = q_length == kv_length > 1 and isinstance(q_offset, int) and q_offset == kv_offset == 0
    local = kwargs.get("local_size")
    on_cpu = torch.device(kwargs.get("device", "cpu")).type == "cpu"
    if square and on_cpu and not kwargs.get("use_vmap") and (local is None or kv_length < local):
        known = _recognised(mask_function) if build.library() is not None else None
    if known is not None:
        causal, segments_BT = known
        padded = attention_mask is not None and not bool(attention_mask.all())
        if segments_BT is not None or padded:
            segments_BT = torch.zeros(1, 1, dtype=torch.int32) if segments_BT is None else segments_BT
            segments_BT = segments_BT.expand(batch_size, q_length)
            return packed_mask(segments_BT, causal=causal, attend_BT=attention_mask if padded else None)
    place: dict[str, Any] = {"q_offset": q_offset, "kv_offset": kv_offset} | kwargs
    return sdpa_mask(
        batch_size, q_length, kv_length, mask_function=mask_function, attention_mask=attention_mask, **place
    )


def _recognised(mask_function: Callable[..., Any]) -> tuple[bool, Tensor | None] | None:
    """(causal, segments (B, T) or None) of a mask function made of parts known here, else None.

    transformers hands over a function of four indices; its parts are told by their names and read from its closure. An
    unknown part, or a name that changed, gives None, and with that sdpa's own mask.
    """
    if mask_function is causal_mask_function:
        return True, None
    if mask_function is both_ways:
        return False, None
    held = inspect.getclosurevars(mask_function).nonlocals if inspect.isfunction(mask_function) else {}
    match mask_function.__module__, getattr(mask_function, "__qualname__", "").partition(".")[0]:
        case "transformers.masking_utils", "and_masks":
            parts = [_recognised(part) for part in held.get("mask_functions", ())]
            return functools.reduce(_both, parts) if parts else None
        case "transformers.masking_utils", "packed_sequence_mask_function":
            return False, held.get("packed_sequence_mask")
        case "transformers.masking_utils", "remap_positions_for_packed_sequence":
            # Within a document positions rise one by one, so causality by position is causality by index.
            return _recognised(held["mask_function"]) if "mask_function" in held else None
    return None


def _both(
    one: tuple[bool, Tensor | None] | None, two: tuple[bool, Tensor | None] | None
) -> tuple[bool, Tensor | None] | None:
    if one is None or two is None or (one[1] is not None and two[1] is not None):
        return None
    return one[0] or two[0], one[1] if one[1] is not None else two[1]


def register() -> None:
    """Makes the name "danlu" known to transformers. May be called again."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, attention_mask)
