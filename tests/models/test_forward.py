import pytest
import torch
from torch import Tensor

from danlu.core.errors import RequestError
from danlu.models.forward import Forward, document_mask
from tests.models.conftest import Make

FIRST, SECOND = 6, 5
IDS = torch.arange(3, 3 + 2 * (FIRST + SECOND)).view(2, -1)
POSITIONS = torch.tensor([[*range(FIRST), *range(SECOND)]] * 2)


def _apart(forward: Forward) -> Tensor:
    parts = [forward({"input_ids": ids}).logits for ids in IDS.split([FIRST, SECOND], 1)]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "mistral", "opt", "falcon", "mixtral"])
def test_a_packed_row_equals_its_documents_apart(tiny: Make, family: str) -> None:
    forward = Forward(tiny(family).eval())
    assert forward.packs
    assert forward.fused
    with torch.no_grad():
        packed = forward({"input_ids": IDS, "position_ids": POSITIONS})
        torch.testing.assert_close(packed.logits, _apart(forward), rtol=1e-4, atol=1e-5)
        whole = forward.model(input_ids=IDS).logits
    assert not torch.allclose(packed.logits, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_gradients_do_not_cross_documents(tiny: Make, implementation: str) -> None:
    model = tiny("llama")
    model.set_attn_implementation(implementation)
    forward = Forward(model)
    embedding = model.get_input_embeddings()
    forward({"input_ids": IDS, "position_ids": POSITIONS}).logits[:, FIRST:].square().sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad[IDS[:, :FIRST]].abs().max() == 0
    assert embedding.weight.grad[IDS[:, FIRST:]].abs().max() > 0


def test_a_model_that_cannot_pack_says_so(tiny: Make) -> None:
    forward = Forward(tiny("bloom"))
    assert not forward.packs
    with pytest.raises(RequestError, match=r"Set data.packing: pad"):
        forward({"input_ids": IDS, "position_ids": POSITIONS})
    padded = {"input_ids": IDS, "position_ids": POSITIONS, "attention_mask": torch.ones_like(IDS)}
    assert forward(padded).logits.shape == (2, FIRST + SECOND, 97)


def test_head_is_left_to_the_loss_only_where_both_ways_agree(tiny: Make) -> None:
    for family in ("llama", "gpt2"):
        forward = Forward(tiny(family))
        outputs = forward({"input_ids": IDS})
        assert outputs.head is not None
        assert not outputs.has_logits
        torch.testing.assert_close(outputs.logits, forward.model(input_ids=IDS).logits)
    for family in ("gemma2", "cohere"):
        forward = Forward(tiny(family))
        assert not forward.fused
        assert forward({"input_ids": IDS}).has_logits


def test_trying_out_changes_nothing(tiny: Make) -> None:
    model = tiny().train()
    model.model.norm.eval()
    state = torch.get_rng_state()
    Forward(model)
    assert model.training
    assert not model.model.norm.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(("family", "fused"), [("marian", True), ("bart", True), ("t5", False)])
def test_the_head_of_an_encoder_decoder_is_left_to_the_loss_where_it_is_plain(
    tiny: Make, family: str, fused: bool
) -> None:
    model = tiny(family, auto_class="AutoModelForSeq2SeqLM")
    forward, given = Forward(model), {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}
    outputs = forward(given)
    assert (forward.fused, outputs.has_logits) == (fused, not fused)
    assert outputs.model is model
    torch.testing.assert_close(outputs.logits, model(**given).logits)


def test_a_head_with_a_shift_of_its_own_is_not_plain(tiny: Make) -> None:
    model = tiny("marian", auto_class="AutoModelForSeq2SeqLM")
    model.final_logits_bias[0, 5] = 3.0
    assert not Forward(model).fused


def test_classifiers_give_logits(tiny: Make) -> None:
    classifier = Forward(tiny("bert", auto_class="AutoModelForSequenceClassification"))
    assert classifier({"input_ids": IDS}).logits.shape == (2, 2)


def test_a_model_that_fails_on_its_own_sizes_says_so(tiny: Make) -> None:
    with pytest.raises(RequestError, match=r"GPTJForCausalLM fails on a few tokens.*model.design.options"):
        Forward(tiny("gptj"))
    Forward(tiny("gptj", options={"rotary_dim": 4}))


def test_document_mask() -> None:
    mask = document_mask(torch.tensor([[0, 1, 0, 1]]), True, torch.float32)[0, 0]
    assert (mask == 0).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
