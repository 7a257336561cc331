import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from danlu.core.errors import RequestError
from danlu.optim.build import build_optimizer, parameter_groups
from danlu.optim.config import OptimizerConfig
from danlu.techniques.schedule.layer_decay import LayerDecay


def _scales(model):
    return {name: group["lr_scale"] for group in parameter_groups(model) for name in group["names"]}


def test_rates_follow_the_depth(make_model):
    scales = _scales(LayerDecay(rate=0.5).on_model(make_model(num_hidden_layers=3)))
    assert scales["model.embed_tokens.weight"] == 0.5**4
    for layer in range(3):
        assert scales[f"model.layers.{layer}.mlp.up_proj.weight"] == 0.5 ** (3 - layer)
        assert scales[f"model.layers.{layer}.input_layernorm.weight"] == 0.5 ** (3 - layer)
    assert scales["model.norm.weight"] == scales["lm_head.weight"] == 1.0


def test_encoder_and_decoder_count_for_themselves():
    sizes = {"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    config = AutoConfig.for_model("marian", vocab_size=40, pad_token_id=0, decoder_start_token_id=1, **sizes)
    scales = _scales(LayerDecay(rate=0.5).on_model(AutoModelForSeq2SeqLM.from_config(config)))
    assert scales["model.encoder.layers.0.fc1.weight"] == 0.5
    assert [scales[f"model.decoder.layers.{at}.fc1.weight"] for at in (0, 1)] == [0.25, 0.5]
    assert scales["model.shared.weight"] == 0.125


def test_a_step_is_as_much_shorter(make_model):
    model = LayerDecay(rate=0.5).on_model(make_model())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(OptimizerConfig(kind="sgd", lr=0.1), model)
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["lr_scale"]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: float((before[name] - parameter.detach()).mean()) for name, parameter in model.named_parameters()}
    assert moved["lm_head.weight"] == pytest.approx(0.1)
    assert moved["model.layers.0.mlp.up_proj.weight"] == pytest.approx(0.025)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(RequestError, match="no repeated blocks"):
        LayerDecay().on_model(torch.nn.Linear(2, 2))
