"""A linear layer and the LoRA beside it as one operation: y = x W^T + b + s (x A^T) B^T.

peft computes the two apart: it takes the input to fp32 and (under autocast) back, scales the second result and adds it,
each a pass over memory as large as the output, and more backward. Here the second product is added into the first, and
of the input one copy is kept, in the type that it is multiplied in. Hu et al. 2021, arXiv:2106.09685, equation 3.
"""

import types
from typing import Any

import torch
from torch import Tensor, nn

TYPES = (torch.float32, torch.bfloat16)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OD: Tensor, bias_O: Tensor | None, down_RD: Tensor, up_OR: Tensor, scale: float,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        x_ND, weight = x.reshape(-1, x.shape[-1]).to(dtype), weight_OD.to(dtype)
        low_NR = x_ND @ down_RD.to(dtype).t()
        out_NO = x_ND @ weight.t() if bias_O is None else torch.addmm(bias_O.to(dtype), x_ND, weight.t())
        out_NO.addmm_(low_NR, up_OR.to(dtype).t(), alpha=scale)
        ctx.save_for_backward(x_ND, low_NR, weight_OD, down_RD, up_OR)
        ctx.scale, ctx.like, ctx.shape = scale, x.dtype, x.shape
        return out_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, low_NR, weight_OD, down_RD, up_OR = ctx.saved_tensors
        dtype, scale, grad_x = x_ND.dtype, ctx.scale, None
        grad_NO = grad.reshape(-1, grad.shape[-1]).to(dtype)
        back_NR = grad_NO @ up_OR.to(dtype)
        if ctx.needs_input_grad[0]:
            grad_x = torch.addmm(grad_NO @ weight_OD.to(dtype), back_NR, down_RD.to(dtype), alpha=scale)
            grad_x = grad_x.to(ctx.like).view(ctx.shape)
        grad_down = (back_NR.t() @ x_ND).to(down_RD.dtype).mul_(scale)
        grad_up = (grad_NO.t() @ low_NR).to(up_OR.dtype).mul_(scale)
        return grad_x, None, None, grad_down, grad_up, None, None


def lora_linear(
    x: Tensor, weight_OD: Tensor, bias_O: Tensor | None, down_RD: Tensor, up_OR: Tensor, scale: float
) -> Tensor:
    """x (..., D) -> (..., O), in the type of autocast, else of x. Weight and bias are frozen: they get no gradient."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    with torch.autocast(device, enabled=False):
        return _LoraLinear.apply(x, weight_OD, bias_O, down_RD, up_OR, scale, dtype)


def fuse(model: nn.Module) -> int:
    """Gives peft's plain LoRA layers over frozen linear ones the fused forward, in place; says how many it changed.

    It goes to peft's own whenever the layer is merged, switched off, has a variant such as DoRA or several adapters,
    drops inputs out, or is watched by a hook.
    """
    found = [module for module in model.modules() if _is_plain(module)]
    for module in found:
        module.forward = types.MethodType(_forward, module)  # type: ignore[method-assign]
    return len(found)


def _is_plain(module: nn.Module) -> bool:
    kind = type(module)
    if (kind.__module__, kind.__name__) != ("peft.tuners.lora.layer", "Linear") or "forward" in vars(module):
        return False
    base: Any = module.base_layer
    return isinstance(base, nn.Linear) and type(base.weight) is nn.Parameter and not base.weight.requires_grad


def _forward(self: Any, x: Tensor, *rest: Any, **options: Any) -> Tensor:
    active = self.active_adapters
    name = active[0] if len(active) == 1 else ""
    if rest or options or name not in self.lora_A or not _is_usual(self, name, x):
        return type(self).forward(self, x, *rest, **options)
    down, up, base = self.lora_A[name], self.lora_B[name], self.base_layer
    return lora_linear(x, base.weight, base.bias, down.weight, up.weight, self.scaling[name])


def _is_usual(layer: Any, name: str, x: Tensor) -> bool:
    down, up, base = layer.lora_A[name], layer.lora_B[name], layer.base_layer
    free = not (layer.merged or layer.disable_adapters or name in layer.lora_variant or base._forward_hooks)
    still = isinstance(layer.lora_dropout[name], nn.Identity) or not layer.training
    kinds = {x.dtype, base.weight.dtype, down.weight.dtype}
    one_type = torch.is_autocast_enabled(x.device.type) or len(kinds) == 1
    return free and still and one_type and kinds <= set(TYPES) and up.bias is None
