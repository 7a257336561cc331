import pytest
import torch

from danlu.core.errors import RequestError
from danlu.models.kernels import accelerate
from danlu.techniques.precision.part_precision import PartPrecision

TOKENS_BT = torch.arange(3, 35).view(2, 16)


def _logits(model, *, bf16):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        return model.eval()(TOKENS_BT).logits


def test_everything_in_fp32_is_an_fp32_run(make_model):
    exact = _logits(make_model(), bf16=False)
    model = PartPrecision(parts={"model": "fp32", "lm_head": "fp32"}).on_model(make_model())
    assert torch.equal(_logits(model, bf16=True), exact)
    accelerate(model, device="cpu", precision="bf16")  # kernels do not pass it by
    torch.testing.assert_close(_logits(model, bf16=True), exact, rtol=1e-5, atol=1e-6)


def test_one_part_in_fp32(make_model):
    model = PartPrecision(parts={"*.mlp": "fp32"}).on_model(make_model())
    accelerate(model, device="cpu", precision="bf16")
    seen = {}
    for name in ("model.layers.0.mlp", "model.layers.0.self_attn.q_proj"):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.dtype}))
    assert not torch.equal(_logits(model, bf16=True), _logits(make_model(), bf16=False))
    assert seen == {"model.layers.0.mlp": torch.float32, "model.layers.0.self_attn.q_proj": torch.bfloat16}


def test_a_part_in_bf16_is_torchs_autocast(make_model):
    plain, model = make_model(), PartPrecision(parts={"lm_head": "bf16"}).on_model(make_model())
    hidden_BTD = plain.model(TOKENS_BT).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = plain.lm_head(hidden_BTD).float()
    found = model(TOKENS_BT).logits
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(_logits(model, bf16=False), _logits(plain, bf16=False))  # in evaluation


def test_a_name_that_fits_nothing_is_refused(make_model):
    with pytest.raises(RequestError, match="Did you mean 'lm_head'"):
        PartPrecision(parts={"lm_heads": "fp32"}).on_model(make_model())
