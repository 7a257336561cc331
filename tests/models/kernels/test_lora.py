import copy

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from danlu.models.kernels.lora import fuse, lora_linear


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_matches_fp64(autocast: bool, bias: bool) -> None:
    torch.manual_seed(0)
    x, down, up = (t.requires_grad_() for t in (torch.randn(2, 7, 12), torch.randn(4, 12), torch.randn(9, 4)))
    weight, offset = torch.randn(9, 12), torch.randn(9) if bias else None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = lora_linear(x, weight, offset, down, up, 0.5)
    assert out.dtype == (torch.bfloat16 if autocast else torch.float32)
    leaves = [t.detach().double().requires_grad_() for t in (x, down, up)]
    wanted = leaves[0] @ weight.double().t() + 0.5 * (leaves[0] @ leaves[1].t()) @ leaves[2].t()
    wanted = wanted if offset is None else wanted + offset.double()
    grad = torch.randn_like(wanted)
    out.backward(grad.to(out.dtype))
    wanted.backward(grad)
    for found, truth in ((out, wanted), *zip((x.grad, down.grad, up.grad), (t.grad for t in leaves), strict=True)):
        assert found is not None
        assert truth is not None
        assert error(found.detach(), truth.detach()) < (1e-2 if autocast else 1e-6)


def adapted(**options: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, **options)
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"lora_dropout": 0.5}], ids=str)
def test_a_model_gives_the_same_loss_and_gradients(options: dict[str, object]) -> None:
    plain = adapted(**options)
    fused = copy.deepcopy(plain)
    names = list(plain.state_dict())
    assert fuse(fused) == 14
    assert list(fused.state_dict()) == names
    ids = torch.arange(24).view(2, 12)
    for model in (plain, fused):
        torch.manual_seed(1)
        model(input_ids=ids, labels=ids).loss.backward()
    for one, two in zip(plain.parameters(), fused.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-6)


def test_switched_off_and_merged_it_is_the_model_without() -> None:
    model = adapted()
    model.eval()
    fuse(model)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        mine = model(input_ids=ids).logits
        with model.disable_adapter():
            off = model(input_ids=ids).logits
        base = model.merge_and_unload()
        torch.testing.assert_close(base(input_ids=ids).logits, mine, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(off, mine, atol=1e-2)
