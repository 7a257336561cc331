"""A frozen base in few bits, for adapters trained beside it (QLoRA).

The few bits are kept in plain buffers: they are copied, sharded, broadcast and moved like any others. (torchao's tensor
subclasses were tried first: DDP and FSDP cannot broadcast them.)
"""

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn

from danlu.core.errors import RequestError

BLOCK = 64
"""weights that share one scale (Dettmers et al. 2023, section 3)"""

_LOWER = (-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0)
_UPPER = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)
NORMAL_FLOAT = (*_LOWER, *_UPPER)
"""the sixteen values of NF4: quantiles of a normal distribution, with zero among them (ibid., appendix E)"""


def quantise_base(model: nn.Module, *, bits: int, skip: Collection[str] = ()) -> list[str]:
    """Keeps the weights of linear layers in `bits` bits, in place; returns the names of the layers that were changed.

    8 bits: w ≈ s q with whole numbers q in [-127, 127] and a scale for each output. 4 bits: NormalFloat in blocks of
    64, w ≈ s c[q] (Dettmers et al. 2023, equations 1 to 4), with scales in half precision instead of quantised once
    more (4.25 bits for a weight instead of 4.13). The head, and layers named in `skip`, stay whole; for 4 bits so do
    those whose weights do not fill whole blocks. The same weights always give the same bits.

    Raises:
        RequestError: the model has no layer that can be quantised.
    """
    chosen = sorted(_chosen(model, bits, skip))
    if not chosen:
        raise RequestError(
            f"{type(model).__name__} has no linear layers that can be kept in {bits} bits",
            where="model.adapter.kind",
            mend="Use kind: lora",
        )
    for name in chosen:
        _quantise(cast(nn.Linear, model.get_submodule(name)), bits)
    return chosen


class QuantisedLinear(nn.Linear):
    """A frozen linear layer whose `weight` is read back from few bits whenever it is needed, and not kept.

    The forward pass runs in autocast's type, or in that of its input.
    """

    codes: Tensor
    scales: Tensor
    bits: int

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights, (outputs, inputs) in fp32."""
        return self.read(torch.float32)

    def read(self, dtype: torch.dtype) -> Tensor:
        """The weights in `dtype`."""
        return _read(self.codes, self.scales, (self.out_features, self.in_features), dtype)

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        shape = (self.out_features, self.in_features)
        output: Tensor = _Product.apply(input.to(dtype), self.codes, self.scales, shape)
        return output if self.bias is None else output + self.bias.to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


def num_quantised(model: nn.Module) -> int:
    """How many weights of the model are kept in few bits; they are no parameters any more."""
    return sum(layer.in_features * layer.out_features for layer in quantised_layers(model))


def quantised_layers(model: nn.Module) -> list[QuantisedLinear]:
    """The layers that are kept in few bits."""
    return [module for module in model.modules() if isinstance(module, QuantisedLinear)]


class _Product(torch.autograd.Function):
    """x Wᵀ with W read back in both directions: autograd would keep every layer's whole weight until the backward."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.shape = shape
        return nn.functional.linear(given, _read(codes, scales, shape, given.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scales = ctx.saved_tensors
        return grads[0] @ _read(codes, scales, ctx.shape, grads[0].dtype), None, None, None


def _read(codes: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    if codes.dtype == torch.int8:
        return codes.to(dtype) * scales.to(dtype)
    values = torch.tensor(NORMAL_FLOAT, device=codes.device, dtype=dtype)
    # Two weights share a byte: one look-up gives both.
    pairs = torch.stack([values.repeat_interleave(16), values.repeat(16)], 1)
    blocks = pairs.index_select(0, codes.int()).view(-1, BLOCK)
    return (blocks * scales.to(dtype)).view(shape)


def _quantise(layer: nn.Linear, bits: int) -> None:
    weight = layer.weight.detach().float()
    if bits == 8:
        scales = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        codes = (weight / scales).round().to(torch.int8)
    else:
        blocks = weight.reshape(-1, BLOCK)
        scales = blocks.abs().amax(1, keepdim=True).clamp(1e-6, 6e4).half()
        values = torch.tensor(NORMAL_FLOAT)
        middles = (values[1:] + values[:-1]) / 2
        nearest = torch.bucketize(blocks / scales.float(), middles.to(weight.device), out_int32=True).view(-1, 2)
        codes = (nearest[:, 0] * 16 + nearest[:, 1]).to(torch.uint8)
    if layer.bias is not None:
        layer.bias.requires_grad_(False)
    del layer.weight
    layer.__class__ = QuantisedLinear
    layer.register_buffer("codes", codes, persistent=False)
    layer.register_buffer("scales", scales, persistent=False)
    layer.bits = bits  # type: ignore[assignment]


def _chosen(model: nn.Module, bits: int, skip: Collection[str]) -> list[str]:
    ask = getattr(model, "get_output_embeddings", None)
    head = ask() if callable(ask) else None
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and module is not head
        and name.rpartition(".")[2] not in skip
        and (bits == 8 or module.weight.numel() % BLOCK == 0)
    ]
