"""Precision by part."""

import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from danlu.core.technique import Technique
from danlu.techniques._surgery import extend, matching


class OwnPrecision(nn.Module):
    """A module that computes in `part_dtype`, whatever the run's mixed precision is; in bf16 while training alone."""

    part_dtype: torch.dtype = torch.float32

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        device = next(self.parameters()).device.type
        mixed_outside = torch.is_autocast_enabled(device)
        low = self.part_dtype != torch.float32
        if low and not self.training:
            return super().forward(*args, **kwargs)
        if not low:
            args, kwargs = _in_fp32(args), _in_fp32(kwargs)
        with torch.autocast(device, dtype=self.part_dtype if low else None, enabled=low):
            output = super().forward(*args, **kwargs)
        # an fp32 surrounding takes fp32 alone; a mixed one casts by itself, and may keep what was gained
        return output if mixed_outside else _in_fp32(output)


class PartPrecision(Technique):
    """Computes parts of the model in another number format than `train.precision` says.

        y = f_fp32(x)  or  y = f(x) with products in bf16,   for the modules that are named

    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3 (some operations need fp32). Weights are
    kept in fp32 in any case; this is about products and what flows between them. In fp32 a head's logits, a router's
    scores or a first convolution keep their digits in a bf16 or fp16 run; bf16 in an fp32 run makes a large part cheap.
    Evaluation sees fp32 parts as they are and takes bf16 parts in the run's precision, as the exported model will be.
    A part in fp16 would need the scaled loss of a whole fp16 run: use `train.precision: fp16` and name what is not.
    Names are modules' in the model, with `*` and `?`; the last that fits counts. Cost: fp32 parts are slower, and a
    head that is named is not fused with its loss.

    When not: without a sign that precision matters (compare the loss of a short fp32 run first).
    """

    off: ClassVar[Mapping[str, object]] = {"parts": {}}
    example: ClassVar[Mapping[str, object]] = {"parts": {"*.q_proj": "bf16"}}

    parts: dict[str, Literal["fp32", "bf16"]] = {}
    """name of a module → its precision, such as {lm_head: fp32, "*.router": fp32}"""

    def on_model(self, model: nn.Module) -> nn.Module:
        modules = {name: module for name, module in model.named_modules() if name and _has_weights(module)}
        for pattern, precision in self.parts.items():
            for name in _outermost(matching(modules, [pattern], where="techniques.part_precision.parts")):
                module = modules[name]
                extend(module, OwnPrecision)
                module.part_dtype = torch.float32 if precision == "fp32" else torch.bfloat16  # type: ignore[assignment]
                # on the object too, or a fused kernel put there later would pass the class's by
                module.forward = types.MethodType(type(module).forward, module)  # type: ignore[method-assign]
        return model


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _outermost(names: set[str]) -> list[str]:
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _in_fp32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return type(value)({key: _in_fp32(entry) for key, entry in value.items()})
    if isinstance(value, (tuple, list)):
        return type(value)(_in_fp32(entry) for entry in value)
    return value
