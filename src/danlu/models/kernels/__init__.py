"""Fast kernels for transformers' models: the fused head and loss, blocked attention, and settings that pay on a CPU.

`accelerate` switches a model over, `linear_cross_entropy` replaces head and loss, `status` says what is available here.
`DANLU_KERNELS=0` in the environment turns every kernel off, for comparison.
"""

from typing import TYPE_CHECKING, Literal

import torch

from danlu.models.kernels import layers, lora, rotary
from danlu.models.kernels.build import KernelStatus, enabled, fast_bf16, status
from danlu.models.kernels.head import linear_cross_entropy
from danlu.models.kernels.scratch import keep_freed_memory, release

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "KernelStatus",
    "accelerate",
    "fast_bf16",
    "keep_freed_memory",
    "linear_cross_entropy",
    "release",
    "status",
]

Precision = Literal["fp32", "bf16", "fp16"]
FP32_ERROR = 5e-6


def accelerate(model: "PreTrainedModel", *, device: torch.device | str, precision: Precision) -> "PreTrainedModel":
    """Switches a model to the kernels that pay on this device, in place, and returns it.

    On a CPU: fused norms, gates, rotary embedding and LoRA; attention by blocks (for models that use torch's sdpa; one
    set to "eager" asked to see its weights); an allocator that keeps what is freed; and for fp32 the faster of torch's
    two matrix products. Elsewhere nothing. State dict, outputs and configuration files stay as they are:
    `from_pretrained` without danlu gives the same model. Call it before adapters are put in or after (LoRA's own part
    needs after), but before torch.compile. The first call may build the kernels (2 s).
    """
    if not enabled() or torch.device(device).type != "cpu":
        return model
    keep_freed_memory()
    if precision == "fp32":
        _choose_products()
    lora.fuse(model)
    if not status().available:
        return model
    layers.fuse(model)
    rotary.fuse(model)
    if model.config._attn_implementation == "sdpa":
        from danlu.models.kernels import attention  # it needs transformers, which a recipe can be read without

        attention.register()
        model.set_attn_implementation(attention.NAME)
    return model


def _choose_products() -> None:
    """Sends fp32 products to oneDNN instead of MKL, where that keeps fp32's accuracy.

    "medium" also allows oneDNN to round to bf16, and some processors do (those with AMX); elsewhere it just multiplies
    faster: 2.2 times with AVX-512, no slower with AVX2. So one product is tried, and the setting taken back if its
    error is not that of fp32 (2.5e-7).
    """
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    if float(((left @ right).double() - exact).norm() / exact.norm()) > FP32_ERROR:
        torch.set_float32_matmul_precision(before)
