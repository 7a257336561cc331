import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from danlu.core.errors import RequestError
from danlu.models.build import build_model
from danlu.models.config import AdapterConfig, ModelConfig
from danlu.models.estimate import flops_per_token, memory_estimate, num_parameters
from danlu.models.forward import Forward
from danlu.models.quantise import quantise_base
from danlu.models.save import load_trained, save_model

IDS = torch.tensor([[3, 14, 15, 92, 65, 35]])
KINDS = [
    AdapterConfig(kind="lora", r=4),
    AdapterConfig(kind="dora", r=4, targets=("q_proj", "v_proj")),
    AdapterConfig(kind="qlora", r=4),
    AdapterConfig(kind="qlora", r=4, bits=4),
]


def _adapted(base: Path, adapter: AdapterConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = build_model(
        ModelConfig(from_=str(base), adapter=adapter), auto_class="AutoModelForCausalLM", context=32, frozen_dtype=dtype
    )
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("adapter", KINDS, ids=lambda adapter: f"{adapter.kind}{adapter.bits}")
def test_trains_the_adapter_alone_and_merges(base: Path, tmp_path: Path, adapter: AdapterConfig) -> None:
    model = _adapted(base, adapter)
    forward = Forward(model)
    assert forward.fused
    assert forward.packs
    forward({"input_ids": IDS}).logits.square().mean().backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == ("lora_" in name), name
    before = forward({"input_ids": IDS}).logits.detach()
    save_model(model, tmp_path / "model", merge=True)
    assert torch.equal(forward({"input_ids": IDS}).logits, before)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert all(weight.dtype == torch.float32 for weight in plain.parameters())
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, before, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(AutoModelForCausalLM.from_pretrained(base)(IDS).logits, before, atol=1e-3)


def test_adapter_folder_is_read_back(base: Path, tmp_path: Path) -> None:
    model = _adapted(base, KINDS[0])
    save_model(model, tmp_path / "adapter", merge=False)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    loaded = load_trained(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits, model.eval()(IDS).logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(RequestError, match="holds an adapter alone"):
        build_model(ModelConfig(from_=str(tmp_path / "adapter")), auto_class="AutoModelForCausalLM")


@pytest.mark.parametrize("adapter", KINDS, ids=lambda adapter: f"{adapter.kind}{adapter.bits}")
def test_frozen_weights_in_bf16_work_with_and_without_autocast(base: Path, adapter: AdapterConfig) -> None:
    whole, half = _adapted(base, adapter).eval(), _adapted(base, adapter, torch.bfloat16).eval()
    with torch.no_grad():
        expected, plain = whole(IDS).logits, half(IDS).logits
        with torch.autocast("cpu", torch.bfloat16):
            mixed = Forward(half)({"input_ids": IDS}).logits
    assert plain.dtype == torch.float32
    slack = 0.03 * float(expected.abs().max())
    torch.testing.assert_close(plain, expected, rtol=0, atol=slack)
    torch.testing.assert_close(mixed.float(), expected, rtol=0, atol=slack)
    assert half.model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_few_bits_save_memory_and_count_the_same(base: Path) -> None:
    models = [_adapted(base, adapter) for adapter in (KINDS[0], *KINDS[2:])]
    sizes = [memory_estimate(model, context=8, rows=1).weights for model in models]
    assert sizes[0] > 1.6 * sizes[1] > 1.8 * sizes[2]
    assert len({num_parameters(model) for model in models}) == 1
    assert len({num_parameters(model, trainable=True) for model in models}) == 1
    assert len({flops_per_token(model, 8) for model in models}) == 1


@pytest.mark.parametrize(("bits", "error"), [(8, 0.01), (4, 0.12)])
def test_few_bits_stay_near_the_weights(bits: int, error: float) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 48), nn.Linear(48, 7, bias=False)).requires_grad_(False)
    small = copy.deepcopy(plain)
    assert quantise_base(small, bits=bits) == (["0", "1"] if bits == 8 else ["0"])
    away = (small[0].weight - plain[0].weight).norm() / plain[0].weight.norm()
    assert away < error
    given = torch.randn(5, 64, requires_grad=True)
    output = small[0](given)
    torch.testing.assert_close(output, nn.functional.linear(given, small[0].weight, small[0].bias))
    output.square().sum().backward()
    torch.testing.assert_close(given.grad, 2 * output.detach() @ small[0].weight)
    kept = [buffer.numel() * buffer.element_size() for buffer in small[0].buffers()]
    assert sum(kept) <= 64 * 48 * (bits + 0.25 if bits == 4 else bits) / 8 + 4 * 48 * (bits == 8)


def test_new_classifier_is_trained_whole(base: Path) -> None:
    model = build_model(
        ModelConfig(from_=str(base), adapter=AdapterConfig(r=2)),
        auto_class="AutoModelForSequenceClassification",
        options={"num_labels": 3},
    )
    trained = {name.partition(".lora_")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("score" in name for name in trained)


def test_unknown_targets_are_refused(base: Path) -> None:
    with pytest.raises(RequestError, match="Did you mean 'q_proj'"):
        _adapted(base, AdapterConfig(targets=("q_pro",)))
