import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from danlu.techniques.regularise.dropout import Dropout, Dropping, places_of

LLAMA = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 64}
FAMILIES = {
    "llama": (LLAMA, ["model.embed_tokens", "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.o_proj"]),
    "mixtral": (
        {**LLAMA, "num_local_experts": 2, "num_key_value_heads": 1},
        ["model.embed_tokens", "model.layers.0.mlp", "model.layers.0.self_attn.o_proj"],
    ),
    "gpt2": ({"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64}, []),
    "phi": (LLAMA, []),
    "opt": ({**LLAMA, "ffn_dim": 64, "word_embed_proj_dim": 32}, []),
    "bert": (LLAMA, []),
    "t5": ({"d_model": 32, "num_layers": 1, "num_heads": 2, "d_kv": 16, "d_ff": 64, "vocab_size": 64}, []),
    "vit": ({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}, []),
}


def _model(family):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family][0])
    auto = AutoModel if family in ("bert", "t5", "vit") else AutoModelForCausalLM
    return auto.from_config(config).train()


def _prepared(technique, model, make_ctx):
    model = technique.on_model(model)
    state = technique.start(model)
    technique.before_step(make_ctx(model, technique), state)
    return model, state


@pytest.mark.parametrize("family", FAMILIES)
def test_finds_every_place(family, make_ctx):
    model = _model(family)
    names = list(model.state_dict())
    model, state = _prepared(Dropout(p=0.3), model, make_ctx)
    assert sorted(n for n, part in model.named_modules() if isinstance(part, Dropping)) == FAMILIES[family][1]
    assert all(part.p == 0.3 for part in model.modules() if isinstance(part, nn.Dropout))
    assert all(part.attention_dropout == 0.3 for part in model.modules() if hasattr(part, "attention_dropout"))
    assert list(model.state_dict()) == names
    assert any(weights for *_, weights in places_of(model))
    assert len(state.places) >= 3


def test_out_projection_drops_as_torch_does(make_model, make_ctx):
    model, _ = _prepared(Dropout(p=0.4), make_model(), make_ctx)
    layer, x = model.model.layers[0].mlp.down_proj, torch.randn(5, 64)
    torch.manual_seed(1)
    ours = layer(x)
    torch.manual_seed(1)
    assert torch.equal(ours, functional.dropout(functional.linear(x, layer.weight), 0.4))
    assert isinstance(layer, nn.Linear)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_off_and_evaluation_are_the_identity(make_model, make_ctx, p, training):
    model, tokens_BT = make_model(), torch.arange(24).view(2, 12)
    clean = model(tokens_BT).logits
    model, _ = _prepared(Dropout(p=p), model, make_ctx)
    state = torch.get_rng_state()
    assert torch.equal(model.train(training)(tokens_BT).logits, clean)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_differs_by_seed_alone(make_model, make_ctx):
    model, _ = _prepared(Dropout(p=0.5), make_model(), make_ctx)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(torch.arange(24).view(2, 12)).logits)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_attention_may_be_spared(make_model, make_ctx):
    model, _ = _prepared(Dropout(p=0.5, attention=False), make_model(attention_dropout=0.1), make_ctx)
    assert model.model.layers[0].self_attn.attention_dropout == 0.1


def test_export_is_off_and_the_files_are_the_models_own(make_model, make_ctx, tmp_path):
    model, tokens_BT = make_model(), torch.arange(24).view(2, 12)
    technique = Dropout(p=0.5)
    model, state = _prepared(technique, model, make_ctx)
    with technique.on_export(model, state) as exported:
        assert torch.equal(exported(tokens_BT).logits, exported(tokens_BT).logits)  # in training mode, even
        exported.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again).__name__ == "LlamaForCausalLM"
    assert torch.equal(again(tokens_BT).logits, model.eval()(tokens_BT).logits)
    assert model.model.layers[0].mlp.down_proj.output_p == 0.5


def test_an_adapter_keeps_its_own(make_model, make_ctx):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, lora_dropout=0.05, target_modules=["o_proj", "down_proj", "q_proj"])
    model = get_peft_model(make_model(), config)
    model, _ = _prepared(Dropout(p=0.5), model, make_ctx)
    layer = model.base_model.model.model.layers[0].self_attn.o_proj
    assert isinstance(layer, Dropping)
    assert layer.lora_dropout["default"].p == 0.05
    assert model(torch.arange(24).view(2, 12)).logits.shape == (2, 12, 64)
    merged = model.merge_and_unload()
    assert type(merged.model.layers[0].self_attn.o_proj) is nn.Linear
