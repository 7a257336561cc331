"""A frozen base in few bits, for adapters trained beside it (QLoRA)."""

import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from danlu.core.errors import RequestError
from danlu.core.extras import need

BLOCK = 64
"""weights that share one scale (Dettmers et al. 2023, section 3)"""


def quantise_base(model: nn.Module, *, bits: int, skip: Collection[str] = ()) -> list[str]:
    """Replaces the weights of linear layers, in place; returns the names of the layers that were changed.

    8 bits: symmetric int8 with a scale for each output. 4 bits: NormalFloat in blocks of 64 with doubly quantised
    scales (Dettmers et al. 2023, equations 3 and 4). Both by torchao, on any device; the forward pass reads them back
    into their first type. The head and layers named in `skip` stay whole, and for 4 bits so do those whose weights do
    not fill whole blocks.

    Raises:
        RequestError: torchao is not installed, or no layer can be quantised.
    """
    # torchao warns of kernels for other machines while it is imported
    logging.getLogger("torchao").setLevel(logging.ERROR)
    library = need("torchao.quantization", extra="quantise", what="a quantised base (kind: qlora)")
    chosen = _chosen(model, bits, skip)
    if not chosen:
        raise RequestError(
            f"{type(model).__name__} has no linear layers that can be kept in {bits} bits",
            where="model.adapter.kind",
            mend="Use kind: lora",
        )
    if bits == 8:
        config = library.Int8WeightOnlyConfig()
        library.quantize_(model, config, filter_fn=lambda _module, name: name in chosen)
    else:
        for name in chosen:
            _to_nf4(model.get_submodule(name), library)
    return sorted(chosen)


def _chosen(model: nn.Module, bits: int, skip: Collection[str]) -> set[str]:
    ask = getattr(model, "get_output_embeddings", lambda: None)
    head = ask()
    return {
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and module is not head
        and name.rpartition(".")[2] not in skip
        and (bits == 8 or module.weight.numel() % BLOCK == 0)
    }


def _to_nf4(layer: Any, library: Any) -> None:
    weight = layer.weight.detach()
    scales = weight.numel() // BLOCK
    group = next(size for size in (256, 128, 64, 32, 16, 8, 4, 2, 1) if scales % size == 0)
    small = library.NF4Tensor.from_tensor(weight, BLOCK, group)
    layer.weight = nn.Parameter(small, requires_grad=False)


def stored_bytes(weight: torch.Tensor) -> int:
    """What a weight takes in memory, in a few bits or not."""
    parts = getattr(weight, "__tensor_flatten__", None)
    if parts is None:
        return weight.numel() * weight.element_size()
    return sum(stored_bytes(getattr(weight, name)) for name in parts()[0])
