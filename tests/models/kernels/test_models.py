"""Real transformers models, small ones from a config: the same loss and gradients as with sdpa."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    T5Config,
    ViTConfig,
)

from danlu.models import kernels
from danlu.models.kernels import blocks, build

pytestmark = pytest.mark.skipif(not build.status().available, reason=build.status().reason)

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DECODERS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(vocab_size=101, num_key_value_heads=2, **SMALL),
    "qwen3": Qwen3Config(vocab_size=101, num_key_value_heads=2, head_dim=32, **SMALL),
    "gpt2": GPT2Config(
        vocab_size=101, n_embd=48, n_layer=2, n_head=4, n_positions=512, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0
    ),
    "mistral": MistralConfig(vocab_size=101, num_key_value_heads=2, sliding_window=20, **SMALL),
}
MODELS: dict[str, PreTrainedModel] = {}


def pair(config: PretrainedConfig, auto: type = AutoModelForCausalLM) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same weights twice: plain, and accelerated. The precision of fp32 products is left as it was."""
    torch.manual_seed(1)
    # Two models from one config object share it, and with it the attention's name.
    plain, fast = (auto.from_config(copy.deepcopy(config), attn_implementation="sdpa").train() for _ in range(2))
    fast.load_state_dict(plain.state_dict())
    return plain, kernels.accelerate(fast, device="cpu", precision="bf16")


def step(model: PreTrainedModel, autocast: bool = False, **batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(**batch, use_cache=False) if "pixel_values" not in batch else model(**batch)
        loss = out.loss if out.get("loss") is not None else out.last_hidden_state.float().square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(one: tuple[Tensor, dict[str, Tensor]], two: tuple[Tensor, dict[str, Tensor]], tolerance: float) -> None:
    torch.testing.assert_close(one[0], two[0], rtol=tolerance, atol=0)
    total = torch.stack([g.norm() for g in two[1].values()]).norm()
    assert one[1].keys() == two[1].keys()
    for name, grad in one[1].items():
        assert float((grad - two[1][name]).norm()) < tolerance * float(total), name


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry a call of the blocked forward pass: whether it had a mask."""
    made: list[bool] = []
    original = blocks.forward

    def watch(query: Tensor, key: Tensor, value: Tensor, codes: Tensor | None, **options: object) -> object:
        made.append(codes is not None)
        return original(query, key, value, codes, **options)

    monkeypatch.setattr(blocks, "forward", watch)
    return made


def ids(B: int = 3, T: int = 150) -> Tensor:
    return torch.randint(101, (B, T))


@pytest.mark.parametrize("name", list(DECODERS))
@pytest.mark.parametrize("autocast", [False, True])
def test_decoder_matches_sdpa(name: str, autocast: bool, calls: list[bool]) -> None:
    plain, fast = pair(DECODERS[name])
    tokens = ids()
    batch = {"input_ids": tokens, "labels": tokens}
    same(step(fast, autocast, **batch), step(plain, autocast, **batch), 5e-3 if autocast else 2e-5)
    # Mistral's window is shorter than the row: that goes to sdpa.
    assert calls == ([] if name == "mistral" else [False, False])


def test_window_longer_than_the_row_is_no_window() -> None:
    plain, fast = pair(DECODERS["mistral"])
    tokens = ids(T=15)
    same(step(fast, input_ids=tokens, labels=tokens), step(plain, input_ids=tokens, labels=tokens), 2e-5)


@pytest.mark.parametrize("name", list(DECODERS))
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_decoder_matches_sdpa(name: str, side: str, calls: list[bool]) -> None:
    plain, fast = pair(DECODERS[name])
    tokens, mask = ids(), torch.arange(150)[None] < torch.tensor([[150], [40], [97]])
    mask = mask if side == "right" else mask.flip(1)
    batch = {"input_ids": tokens, "attention_mask": mask.long(), "labels": tokens.masked_fill(~mask, -100)}
    same(step(fast, **batch), step(plain, **batch), 2e-5)
    assert calls == ([] if name == "mistral" else [True, True])


@pytest.mark.parametrize("name", list(DECODERS))
def test_packed_rows_match_sdpa_and_the_documents_apart(name: str, calls: list[bool]) -> None:
    plain, fast = pair(DECODERS[name])
    lengths = [[60, 1, 89], [150], [10, 140]]
    tokens = ids()
    position_ids = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    labels = tokens.clone()
    labels[position_ids == 0] = -100
    batch = {"input_ids": tokens, "position_ids": position_ids, "labels": labels}
    packed = step(fast, **batch)
    same(packed, step(plain, **batch), 2e-5)
    assert calls == ([] if name == "mistral" else [True, True])
    total, num = 0.0, 0
    for row, cut in zip(tokens, lengths, strict=True):
        for document in row.split(cut):
            if len(document) > 1:
                total += float(step(plain, input_ids=document[None], labels=document[None])[0]) * (len(document) - 1)
                num += len(document) - 1
    assert float(packed[0]) == pytest.approx(total / num, rel=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["bert", "vit", "bart", "t5"])
def test_other_kinds_of_model_match_sdpa(name: str, padded: bool) -> None:
    attend = (torch.arange(40)[None] < torch.tensor([[40], [13]])).long() if padded else None
    text = {"input_ids": ids(2, 40)} | ({"attention_mask": attend} if padded else {})
    bart = BartConfig(
        vocab_size=101, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=0, max_position_embeddings=64,
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=101,
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=4,
        dropout_rate=0,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    bert = BertConfig(vocab_size=101, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **SMALL)
    vit = ViTConfig(image_size=32, patch_size=8, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **SMALL)
    config, auto, batch = {
        "bert": (bert, AutoModel, text),
        "vit": (vit, AutoModel, {"pixel_values": torch.randn(2, 3, 32, 32)}),
        "bart": (bart, AutoModelForSeq2SeqLM, text | {"labels": ids(2, 22)}),
        "t5": (t5, AutoModelForSeq2SeqLM, text | {"labels": ids(2, 22)}),
    }[name]
    plain, fast = pair(config, auto)
    same(step(fast, **batch), step(plain, **batch), 2e-5)
    assert plain.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_attention_dropout_is_repeatable_and_drops(name: str) -> None:
    config = type(DECODERS[name])(**(DECODERS[name].to_dict() | {"attention_dropout": 0.5, "attn_pdrop": 0.5}))
    _, fast = pair(config)
    tokens, found = ids(), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(step(fast, input_ids=tokens, labels=tokens))
    same(found[0], found[1], 1e-7)
    assert found[0][0] != found[2][0]


@pytest.mark.parametrize("name", list(DECODERS))
def test_generation_matches_sdpa(name: str) -> None:
    plain, fast = (model.eval() for model in pair(DECODERS[name]))
    tokens, mask = ids(2, 12), torch.ones(2, 12, dtype=torch.int64)
    mask[0, :5] = 0
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(fast.generate(tokens, **options), plain.generate(tokens, **options))


def test_gradient_checkpointing_with_dropout_matches() -> None:
    config = LlamaConfig(**(DECODERS["llama"].to_dict() | {"attention_dropout": 0.3}))
    _, fast = pair(config)
    tokens = ids()
    torch.manual_seed(5)
    whole = step(fast, input_ids=tokens, labels=tokens)
    fast.gradient_checkpointing_enable()
    torch.manual_seed(5)
    same(step(fast, input_ids=tokens, labels=tokens), whole, 1e-5)


def test_saved_model_does_not_know_danlu(tmp_path: Path) -> None:
    plain, fast = pair(DECODERS["llama"])
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast.save_pretrained(tmp_path)
    assert "danlu" not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_eager_models_other_devices_and_the_switch_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(implementation: str, device: str) -> str:
        model = AutoModelForCausalLM.from_config(DECODERS["llama"], attn_implementation=implementation)
        return kernels.accelerate(model, device=device, precision="bf16").config._attn_implementation

    assert made("eager", "cpu") == "eager"
    assert made("sdpa", "cuda") == "sdpa"
    assert made("sdpa", "cpu") == "danlu"
    monkeypatch.setenv("DANLU_KERNELS", "0")
    assert made("sdpa", "cpu") == "sdpa"
    assert not kernels.status().available


@pytest.mark.parametrize("rounds", [False, True])
def test_faster_products_are_kept_only_where_they_are_as_exact(rounds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        if rounds:
            monkeypatch.setattr(kernels, "FP32_ERROR", 0.0)
        model = AutoModelForCausalLM.from_config(copy.deepcopy(DECODERS["llama"]))
        kernels.accelerate(model, device="cpu", precision="fp32")
        assert torch.get_float32_matmul_precision() == ("highest" if rounds else "medium")
    finally:
        torch.set_float32_matmul_precision(before)
