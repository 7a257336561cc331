"""Adapters through peft: LoRA, DoRA, and LoRA over a quantised base."""

import warnings
from collections.abc import Sequence

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from danlu.core.errors import RequestError, nearest
from danlu.models.config import AdapterConfig
from danlu.models.quantise import quantise_base

_TASK_TYPES = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
}


def adapt(
    model: PreTrainedModel,
    config: AdapterConfig,
    *,
    auto_class: str,
    fresh: Sequence[str] = (),
    frozen_dtype: torch.dtype = torch.float32,
) -> PeftModel:
    """Freezes `model` and puts the adapter beside its layers.

    `fresh` names weights that were not loaded but made anew (a classifier's): their modules are trained whole.
    Frozen linear layers are kept in `frozen_dtype`, or in a few bits for qlora; embeddings and norms stay fp32, so that
    what flows between the layers loses nothing.

    Raises:
        RequestError: a target does not exist, or nothing can be quantised.
    """
    targets = _targets(model, config)
    kept = sorted({name.rpartition(".")[0].rpartition(".")[2] for name in fresh if "." in name})
    model.requires_grad_(False)
    if config.kind == "qlora":
        quantise_base(model, bits=config.bits, skip=kept)
    else:
        _cast_frozen(model, frozen_dtype, skip=kept)
    made = _lora_config(model, config, _TASK_TYPES.get(auto_class), targets, kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that will change, and of a merge that `merged_weights` does itself
        adapted = get_peft_model(model, made, autocast_adapter_dtype=True)
    for layer in adapted.modules():
        own = {nn.Linear: _FrozenLinear, Conv1D: _FrozenConv1D}.get(type(layer))
        if own is not None and layer.weight.dtype != torch.float32 and not layer.weight.requires_grad:
            layer.__class__ = own
    return adapted


def _lora_config(
    model: nn.Module, config: AdapterConfig, task_type: str | None, targets: str | list[str], kept: list[str]
) -> LoraConfig:
    alpha = config.alpha if config.alpha is not None else 2 * config.r
    return LoraConfig(
        r=config.r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=targets,
        use_dora=config.kind == "dora",
        modules_to_save=kept or None,
        task_type=task_type,  # type: ignore[arg-type]
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )


def _targets(model: PreTrainedModel, config: AdapterConfig) -> str | list[str]:
    if config.targets == "all-linear":
        return "all-linear"
    known = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    for target in config.targets:
        if target.rpartition(".")[2] not in known:
            mend = nearest(target, known)
            raise RequestError(f"the model has no layer {target!r}", where="model.adapter.targets", mend=mend)
    return list(config.targets)


def _cast_frozen(model: PreTrainedModel, dtype: torch.dtype, skip: Sequence[str]) -> None:
    """The weights of linear layers but the head; buffers stay, for rotary frequencies in bf16 would blur positions."""
    if dtype == torch.float32:
        return
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if type(module) in (nn.Linear, Conv1D) and module is not head and name.rpartition(".")[2] not in skip:
            module.to(dtype)


class _FrozenLinear(nn.Linear):
    """A linear layer whose weights are of a smaller type than what flows in, with or without autocast."""

    def forward(self, input: Tensor) -> Tensor:
        return _back(super().forward(input.to(self.weight.dtype)), input)


class _FrozenConv1D(Conv1D):
    """The same for GPT-2's transposed linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return _back(super().forward(x.to(self.weight.dtype)), x)


def _back(output: Tensor, given: Tensor) -> Tensor:
    return output if torch.is_autocast_enabled(given.device.type) else output.to(given.dtype)
