"""Folds an adapter into the weights that it changes, one layer at a time, leaving the model as it is."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from danlu.models.names import plain_name
from danlu.models.quantise import QuantisedLinear


def merged_weights(model: Any) -> dict[str, Tensor]:
    """The weights of the model inside, by their own names, with the adapter's change added, in fp32.

    W' = W + (α/r) B A for LoRA; for DoRA the columns of that are brought to the learned magnitudes. A quantised W is
    taken as it is read by the forward pass.
    """
    base = model.get_base_model()
    merged: dict[str, Tensor] = {}
    for prefix, part, whole in _parts(base):
        held = {**part._parameters, **part._buffers}
        if isinstance(part, QuantisedLinear):
            held["weight"] = part.weight
        for name, tensor in held.items():
            if tensor is None or name in part._non_persistent_buffers_set:
                continue
            plain = tensor.detach()
            if whole is not None and name == "weight":
                plain = _merged(whole, part)
            elif plain.is_floating_point():
                plain = plain.float()
            merged[plain_name(f"{prefix}.{name}".lstrip("."))] = plain
    return _with_ties(base, merged)


def _parts(base: nn.Module) -> Iterator[tuple[str, nn.Module, LoraLinear | None]]:
    """The modules of the plain model: name, module, and the adapter layer round it, if any."""
    inside: tuple[str, ...] = ()
    for name, part in base.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(part, BaseTunerLayer):
            inside += (f"{name}.",)
            yield name, part.get_base_layer(), part  # type: ignore[misc]
        elif isinstance(part, ModulesToSaveWrapper):
            inside += (f"{name}.",)
            trained = part.modules_to_save[str(part.active_adapters[0])]
            for below, module in trained.named_modules(prefix=name):
                yield below, module, None
        else:
            yield name, part, None


def _merged(layer: Any, base: nn.Module) -> Tensor:
    """peft's own merge, on a plain fp32 stand-in for the layer."""
    weight: Any = base.weight
    plain = copy.copy(base)
    if isinstance(base, QuantisedLinear):
        plain.__class__ = nn.Linear
    plain._parameters = {
        **base._parameters,
        "weight": nn.Parameter(weight.detach().float().clone(), requires_grad=False),
    }
    layer.base_layer = plain
    try:
        with torch.no_grad():
            LoraLinear.merge(layer, safe_merge=True)
        merged: Tensor = plain._parameters["weight"].detach()  # type: ignore[union-attr]
        return merged
    finally:
        layer.base_layer = base
        layer.merged_adapters.clear()


def _with_ties(base: nn.Module, merged: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shared weights stay one tensor, so that transformers writes them once."""
    first: dict[int, str] = {}
    for name, weight in base.named_parameters(remove_duplicate=False):
        plain = plain_name(name)
        if plain in merged:
            merged[plain] = merged[first.setdefault(id(weight), plain)]
    return merged
