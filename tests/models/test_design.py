import pytest

from danlu.core.errors import RequestError
from danlu.models.build import build_model, sketch_model
from danlu.models.config import DesignConfig, ModelConfig, RopeConfig
from tests.models.conftest import Make


def test_words_reach_the_keys_of_each_family(tiny: Make) -> None:
    llama = tiny("llama", kv_heads=2, mlp=48, activation="gelu", tie=True, position=RopeConfig(theta=500.0)).config
    assert (llama.hidden_size, llama.num_hidden_layers, llama.num_key_value_heads, llama.head_dim) == (32, 2, 2, 8)
    assert (llama.intermediate_size, llama.hidden_act, llama.tie_word_embeddings) == (48, "gelu", True)
    assert llama.rope_parameters["rope_theta"] == 500.0
    assert (llama.vocab_size, llama.max_position_embeddings, llama.eos_token_id) == (97, 32, 2)
    gpt2 = tiny("gpt2").config
    assert (gpt2.n_embd, gpt2.n_layer, gpt2.n_head, gpt2.n_positions, gpt2.resid_pdrop) == (32, 2, 4, 32, 0.0)
    qwen3 = tiny("qwen3").config
    assert (qwen3.num_key_value_heads, qwen3.head_dim, qwen3.intermediate_size) == (4, 8, 128)
    assert tiny("mistral", attention=5).config.sliding_window == 5
    marian = tiny("marian", auto_class="AutoModelForSeq2SeqLM").config
    assert (marian.encoder_layers, marian.decoder_layers, marian.encoder_attention_heads) == (2, 2, 4)
    assert (marian.decoder_start_token_id, marian.pad_token_id, marian.decoder_vocab_size) == (0, 0, 97)
    t5 = tiny("t5", auto_class="AutoModelForSeq2SeqLM", activation="gated-gelu").config
    assert (t5.d_model, t5.num_layers, t5.num_decoder_layers, t5.d_kv, t5.is_gated_act) == (32, 2, 2, 8, True)
    assert tiny("bert").config.is_decoder is True


def test_encoders_and_vision() -> None:
    bert = build_model(
        ModelConfig(design=DesignConfig(family="bert", layers=1, width=16, heads=2, options={"type_vocab_size": 1})),
        auto_class="AutoModelForSequenceClassification",
        vocab_size=30,
        context=8,
        options={"num_labels": 3},
    )
    assert bert.config.num_labels == 3
    assert bert.config.type_vocab_size == 1
    vit = build_model(
        ModelConfig(design=DesignConfig(family="vit", layers=1, width=16, heads=2, options={"image_size": 32})),
        auto_class="AutoModelForImageClassification",
        options={"num_labels": 4},
    )
    assert vit.config.image_size == 32
    assert vit.config.num_labels == 4


def test_weights_depend_on_the_seed_alone(tiny: Make) -> None:
    first, again, other = (tiny(seed=seed).get_input_embeddings().weight for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


def test_sketch_counts_without_weights(tiny: Make) -> None:
    design = DesignConfig(family="llama", layers=2, width=32, heads=4)
    sketch = sketch_model(ModelConfig(design=design), auto_class="AutoModelForCausalLM", vocab_size=97, context=32)
    assert all(weight.is_meta for weight in sketch.parameters())
    assert sketch.num_parameters() == tiny().num_parameters()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"family": "lama"}, "Did you mean 'llama'"),
        ({"heads": 5}, "5 heads do not divide the width 32. Take 4 heads, or a width of 35"),
        ({"kv_heads": 3}, "Take one of 1, 2, 4"),
        ({"width": 12}, "heads of even width, not 3"),
        ({"family": "gpt2", "kv_heads": 2}, "gpt2 has no kv_heads. It has layers, width, heads"),
        ({"family": "convnext"}, "no layers. It has .*depths"),
        ({"family": "gpt2", "position": RopeConfig(theta=3.0)}, "no rotary positions"),
        ({"family": "gpt2", "attention": 8}, "no sliding window"),
        ({"activation": "silux"}, "Did you mean 'silu'"),
        ({"options": {"rms_norm_epsilon": 1e-5}}, "Did you mean 'rms_norm_eps'"),
        ({"family": "vit"}, "the family vit has no AutoModelForCausalLM"),
        ({"options": {"attention_bias": "perhaps"}}, "llama refuses this design"),
    ],
)
def test_what_does_not_fit_is_refused(tiny: Make, words: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        tiny(**words)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give either from"),
        ({"from": "a/b", "design": {"family": "llama"}}, "give either from"),
        ({"design": {"family": "llama"}, "adapter": {}}, "an adapter needs a trained model"),
        ({"design": {"family": "llama", "attention": "sdpa"}}, "go to model.attention"),
        ({"design": {"family": "llama", "position": {"factor": 2}}}, "factor needs scaling"),
        ({"from": "a/b", "adapter": {"kind": "lora", "bits": 4}}, "bits belongs to kind: qlora"),
    ],
)
def test_configs_that_contradict_themselves(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModelConfig.model_validate(given)
