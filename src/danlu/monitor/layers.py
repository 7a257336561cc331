"""Layers by name, and small samples of them that stand for the whole."""

import math
import re
from collections.abc import Iterable

from torch import Tensor, nn

from danlu.dist.local import local

_WRAPPERS = ("base_model.model.", "model.", "transformer.")


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: `layers.3` for a block's, else its module (`embed_tokens`)."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    block = re.match(r"(.*?\.\d+)\.", name)
    return block.group(1) if block else (name.rpartition(".")[0] or name)


def layer_of_module(name: str) -> str:
    """The layer that a module belongs to."""
    return layer_of(f"{name}.")


def sampled(tensor: Tensor, count: int) -> Tensor:
    """A view of about `count` evenly spread entries of this process's part of a parameter (all, if it has fewer)."""
    flat = local(tensor.detach()).flatten()
    stride = -(-flat.numel() // count) if flat.numel() else 1
    while stride > 1 and math.gcd(stride, tensor.shape[-1]) > 1:
        stride += 1  # a step that shares no factor with the row's length visits every column
    return flat[::stride]


def trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """The parameters that are trained, by name."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
