"""The parts of a Llama-like layer between its matrix products, fused: RMSNorm, and the gated SiLU of its MLP.

transformers writes RMSNorm as seven operations and the gate as two, each a pass over memory, and more backward; on
processors with fast bf16 products they weigh as much as the products. Here each is one pass forward and one backward.
Compiling the layers instead gained 1.02x on an fp32 Llama and held up the first step for 47 s, 9 s when cached.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from danlu.models.kernels import build

KINDS = {torch.float32: "f32", torch.bfloat16: "bf16"}
# Row ranges that each sum the weight's gradient for themselves: fixed, so that the result is the same for any threads.
PARTS = 16
PROBE_ROWS = 4
# A swapped module must give the original's fp32 outputs to within rounding, or it is left alone.
SAME = 1e-5


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype, library: Any) -> Tensor:
        x, floats_D = x.contiguous(), weight_D.float().contiguous()
        D = floats_D.shape[0]
        out, inverse = torch.empty(x.shape, dtype=dtype), torch.empty(x.shape[:-1], dtype=torch.float32)
        ctx.kind, ctx.library = f"{KINDS[x.dtype]}_{KINDS[dtype]}", library
        getattr(library, f"rms_norm_{ctx.kind}")(
            x.data_ptr(), floats_D.data_ptr(), eps, x.numel() // D, D, out.data_ptr(), inverse.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, weight_D, inverse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_D, inverse = ctx.saved_tensors
        grad, floats_D = grad.contiguous(), weight_D.float().contiguous()
        D = floats_D.shape[0]
        grad_x = torch.empty_like(x)
        sums_PD = torch.zeros(PARTS, D) if ctx.needs_input_grad[1] else None
        getattr(ctx.library, f"rms_norm_backward_{ctx.kind}")(
            grad.data_ptr(), x.data_ptr(), floats_D.data_ptr(), inverse.data_ptr(), x.numel() // D, D,
            grad_x.data_ptr(), None if sums_PD is None else sums_PD.data_ptr(), PARTS, torch.get_num_threads(),
        )  # fmt: skip
        return grad_x, None if sums_PD is None else sums_PD.sum(0).to(weight_D.dtype), None, None, None


class _GatedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, library: Any) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        ctx.library, ctx.kind = library, KINDS[gate.dtype]
        getattr(library, f"gated_silu_{ctx.kind}")(
            gate.data_ptr(), up.data_ptr(), gate.numel(), out.data_ptr(), torch.get_num_threads()
        )
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        grad, grad_gate, grad_up = grad.contiguous(), torch.empty_like(gate), torch.empty_like(up)
        getattr(ctx.library, f"gated_silu_backward_{ctx.kind}")(
            grad.data_ptr(), gate.data_ptr(), up.data_ptr(), gate.numel(), grad_gate.data_ptr(), grad_up.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return grad_gate, grad_up, None


def _kernels_for(*tensors: Tensor) -> Any:
    fits = all(t.device.type == "cpu" and t.dtype in KINDS for t in tensors)
    return build.library() if fits and not torch.compiler.is_compiling() else None


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x (..., D) over its root mean square, times the weight; under autocast on a CPU the result is in bf16.

    That is the type the products after it take their input in anyway; saying so here spares each its own conversion.
    """
    library = _kernels_for(x, weight_D)
    if library is None:
        floats = x.float()
        return weight_D * (floats * torch.rsqrt(floats.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    dtype = dtype if dtype in KINDS else torch.result_type(x, weight_D)
    return _RMSNorm.apply(x, weight_D, eps, dtype, library)


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of one shape and type; keeps two tensors for the backward pass instead of three."""
    library = _kernels_for(gate, up) if gate.dtype == up.dtype and gate.shape == up.shape else None
    return nn.functional.silu(gate) * up if library is None else _GatedSiLU.apply(gate, up, library)


def fuse(model: nn.Module) -> int:
    """Gives the RMSNorms and gated MLPs in a model their fused forward, in place; says how many it changed.

    Modules are told by their parts and then tried: one whose fp32 output changes is left as it is. Parameters, hooks
    and the names in the state dict stay. Cost: two small forward passes for each module.
    """
    return sum(_swap(module, forward) for module in model.modules() for forward in _candidates(module))


def _candidates(module: nn.Module) -> list[Callable[..., Tensor]]:
    if type(module).__name__.endswith("RMSNorm") and isinstance(getattr(module, "weight", None), nn.Parameter):
        return [_norm_forward]
    act = type(getattr(module, "act_fn", None)).__name__
    parts = all(isinstance(getattr(module, name, None), nn.Module) for name in ("gate_proj", "up_proj", "down_proj"))
    return [_gated_forward] if parts and act in ("SiLU", "SiLUActivation") else []


def _epsilon(module: nn.Module) -> float:
    found = getattr(module, "variance_epsilon", None)
    return float(found if found is not None else getattr(module, "eps", 0.0) or 0.0)


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, self.weight, _epsilon(self))


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    return self.down_proj(gated_silu(self.gate_proj(x), self.up_proj(x)))


def _tried(forward: Callable[..., Tensor], probe: Tensor) -> Tensor:
    # Both see the same draws, for the dropout of an adapter inside the module, and the run's own draws go untouched.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return forward(probe)


def _swap(module: nn.Module, forward: Callable[..., Tensor]) -> bool:
    if "forward" in vars(module):
        return False
    weight = next(module.parameters())
    if weight.device.type != "cpu":
        return False
    # Drawn by a generator of its own: the run's random numbers must not depend on whether kernels are on.
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, PROBE_ROWS, weight.shape[-1], generator=generator).to(weight.dtype)
    try:
        before, after = _tried(module.forward, probe), _tried(functools.partial(forward, module), probe)
    except (RuntimeError, TypeError, AttributeError):
        return False
    tolerance = SAME if weight.dtype == torch.float32 else float(torch.finfo(weight.dtype).eps) * 4
    if not isinstance(before, Tensor) or before.shape != after.shape or before.dtype != after.dtype:
        return False
    if float((before - after).norm()) > tolerance * float(before.norm()):
        return False
    module.forward = types.MethodType(forward, module)  # type: ignore[method-assign]
    return True
