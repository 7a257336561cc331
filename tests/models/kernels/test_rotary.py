import functools

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
from transformers.models.llama import modeling_llama

from danlu.models.kernels import build, rotary

pytestmark = pytest.mark.skipif(not build.status().available, reason=build.status().reason)
SMALL = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}


def plain(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """transformers' formula, free of what `fuse` may have changed."""

    def turn(x: Tensor) -> Tensor:
        low, high = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]

    return turn(q), turn(k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 2, 9, 16, 1), (3, 1, 1, 5, 64, 3), (1, 3, 3, 1, 6, 1)], ids=str)
def test_matches_fp64(shape: tuple[int, ...], dtype: torch.dtype, autocast: bool) -> None:
    B, H, KV, T, D, angles = shape
    made = [torch.randn(B, T, heads, D).to(dtype).transpose(1, 2).requires_grad_() for heads in (H, KV)]
    cos, sin = torch.randn(angles, T, D), torch.randn(angles, T, D)
    doubles = [t.detach().double().requires_grad_() for t in made]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = rotary.rotate(plain, *made, cos, sin)
    wanted = plain(*doubles, cos.double(), sin.double())
    low = autocast or dtype == torch.bfloat16
    for one, two, leaf, truth in zip(found, wanted, made, doubles, strict=True):
        assert one.dtype == (torch.bfloat16 if autocast else torch.float32)
        grad = torch.randn(one.shape)
        one.backward(grad.to(one.dtype))
        two.backward(grad.double())
        for a, b in ((one.detach(), two.detach()), (leaf.grad, truth.grad)):
            assert float((a.double() - b).norm() / b.norm()) < (6e-3 if low else 1e-6)


def test_points_at_the_kernel_once_and_leaves_others_alone() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=11, num_key_value_heads=2, **SMALL))
    rotary.fuse(model)
    assert isinstance(modeling_llama.apply_rotary_pos_emb, functools.partial)
    assert rotary.fuse(model) == 0
    assert rotary.fuse(AutoModelForCausalLM.from_config(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2))) == 0


def test_another_meaning_is_refused() -> None:
    class File:
        @staticmethod
        def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
            return plain(q, k, cos, -sin)

    assert not rotary._point(File)
    assert not isinstance(File.apply_rotary_pos_emb, functools.partial)


def test_what_does_not_fit_goes_to_the_original() -> None:
    q, cos = torch.randn(1, 2, 3, 8, dtype=torch.float64), torch.randn(1, 3, 8, dtype=torch.float64)
    assert torch.equal(rotary.rotate(plain, q, q, cos, cos)[0], plain(q, q, cos, cos)[0])
