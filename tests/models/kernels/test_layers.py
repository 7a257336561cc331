import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from danlu.models.kernels import build, layers
from danlu.models.kernels.layers import fuse, gated_silu, rms_norm

needs_kernels = pytest.mark.skipif(not build.status().available, reason=build.status().reason)
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("shape", [(3, 5, 17), (1, 64), (40, 384), (2, 3, 4, 32)], ids=str)
@pytest.mark.parametrize("x_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_rms_norm_matches_fp64(path: str, shape: tuple[int, ...], x_type: torch.dtype, autocast: bool) -> None:
    x, weight = torch.randn(shape).to(x_type).requires_grad_(), torch.rand(shape[-1]).requires_grad_()
    x64, weight64 = (t.detach().double().requires_grad_() for t in (x, weight))
    wanted = x64 * (x64.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight64
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = rms_norm(x, weight, 1e-5)
    # transformers' own operations know no autocast: there the result stays in fp32.
    assert out.dtype == (torch.bfloat16 if autocast and path == "kernels" else torch.float32)
    grad = torch.randn(shape)
    out.backward(grad.to(out.dtype))
    wanted.backward(grad.double())
    low = autocast or x_type == torch.bfloat16
    for found, truth in ((out, wanted), (x.grad, x64.grad), (weight.grad, weight64.grad)):
        assert found is not None
        assert truth is not None
        assert error(found.detach(), truth.detach()) < (6e-3 if low else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_silu_matches_fp64(path: str, dtype: torch.dtype) -> None:
    gate, up, grad = (torch.randn(7, 33).to(dtype) for _ in range(3))
    gate[0, :4] = torch.tensor([-100.0, 100.0, 0.0, -88.5]).to(dtype)
    leaves = [gate.requires_grad_(), up.requires_grad_()]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    out, wanted = gated_silu(*leaves), functional.silu(doubles[0]) * doubles[1]
    out.backward(grad)
    wanted.backward(grad.double())
    for found, truth in ((out, wanted), *zip((t.grad for t in leaves), (t.grad for t in doubles), strict=True)):
        assert error(found.detach(), truth.detach()) < (1e-6 if dtype == torch.float32 else 6e-3)


@needs_kernels
def test_frozen_weight_and_strided_input() -> None:
    x = torch.randn(6, 8, 5).transpose(1, 2).requires_grad_()
    weight = torch.rand(8)
    rms_norm(x, weight, 1e-6).sum().backward()
    other = x.detach().clone().requires_grad_()
    functional.rms_norm(other, (8,), weight, 1e-6).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)


@needs_kernels
def test_nan_is_not_hidden() -> None:
    x = torch.randn(3, 8)
    x[1, 2] = float("nan")
    assert rms_norm(x, torch.ones(8), 1e-6).isnan().any(-1).tolist() == [False, True, False]
    assert gated_silu(x, torch.ones(3, 8)).isnan().sum() == 1


@needs_kernels
def test_weight_gradient_does_not_depend_on_threads() -> None:
    x, weight, grad = torch.randn(500, 24), torch.rand(24).requires_grad_(), torch.randn(500, 24)
    found = []
    kept = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.autograd.grad(rms_norm(x, weight, 1e-6), weight, grad)[0])
    finally:
        torch.set_num_threads(kept)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_kernels
def test_fuse_finds_what_it_knows_and_leaves_the_rest() -> None:
    def swapped(config: object) -> int:
        return fuse(AutoModelForCausalLM.from_config(config))

    assert swapped(LlamaConfig(vocab_size=11, num_key_value_heads=2, **SMALL)) == 2 * 2 + 1 + 2
    assert swapped(Qwen3Config(vocab_size=11, num_key_value_heads=2, head_dim=12, **SMALL)) == 2 * 4 + 1 + 2
    # Gemma's norm multiplies by one plus the weight, and its gate is a GELU: alike in parts, another function.
    gemma = AutoModelForCausalLM.from_config(Gemma2Config(vocab_size=11, num_key_value_heads=2, head_dim=12, **SMALL))
    for name, parameter in gemma.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter)
    assert fuse(gemma) == 0
    assert swapped(GPT2Config(vocab_size=11, n_embd=48, n_layer=2, n_head=4)) == 0


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_modules_keep_output_names_and_copies(dtype: torch.dtype) -> None:
    config = LlamaConfig(vocab_size=11, num_key_value_heads=2, **SMALL)
    plain = nn.ModuleList([LlamaRMSNorm(48), LlamaMLP(config)]).to(dtype)
    fast = copy.deepcopy(plain)
    assert fuse(fast) == 2
    assert fuse(fast) == 0
    twin = copy.deepcopy(fast)
    with torch.no_grad():
        twin[0].weight.zero_()
    x = torch.randn(4, 48).to(dtype)
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert not twin[0](x).any()
    for one, two in zip(fast, plain, strict=True):
        assert one(x).dtype == two(x).dtype
        assert error(one(x).detach(), two(x).detach().double()) < (1e-6 if dtype == torch.float32 else 8e-3)


@needs_kernels
def test_fuse_draws_no_random_numbers_of_the_run() -> None:
    model = LlamaRMSNorm(8)
    before = torch.get_rng_state()
    fuse(nn.ModuleList([model]))
    assert torch.equal(before, torch.get_rng_state())
    assert "forward" in vars(model)
    assert layers._epsilon(model) == pytest.approx(1e-6)
