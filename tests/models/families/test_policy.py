"""The policy: objects have no order, absent ones are not seen, and it loads without danlu."""

from pathlib import Path

import torch
from transformers import AutoModel

from danlu.models.build import build_model
from danlu.models.config import ModelConfig
from danlu.models.save import load_trained, save_model

DESIGN = {"design": {"family": "policy", "layers": 1, "width": 16, "heads": 2, "options": {"object_layers": 1}}}


def _model(**options: object):
    given = {"num_objects": 4, "num_features": 3, "num_labels": 5, **options}
    return build_model(ModelConfig.model_validate(DESIGN), auto_class="AutoModel", context=2, options=given).eval()


def _inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"observations": torch.randn(3, 2, 4, 3), "attention_mask": torch.tensor([[1, 1], [1, 1], [1, 0]])}


@torch.no_grad()
def test_the_order_of_the_others_does_not_matter_and_the_absent_are_not_seen() -> None:
    model, inputs = _model(), _inputs()
    inputs["observations"][:, :, 3] = 0
    seen = model(**inputs).logits
    mixed = {**inputs, "observations": inputs["observations"][:, :, [0, 3, 2, 1]]}
    fewer = {**inputs, "observations": inputs["observations"][:, :, :3]}
    swapped = {**inputs, "observations": inputs["observations"][:, :, [1, 0, 2, 3]]}
    torch.testing.assert_close(model(**mixed).logits, seen)
    torch.testing.assert_close(model(**fewer).logits, seen)
    assert not torch.allclose(model(**swapped).logits, seen, atol=1e-3)  # the first is the one that is driven


@torch.no_grad()
def test_rescaling_return_and_past_actions_count() -> None:
    inputs = {**_inputs(), "past_actions": torch.tensor([[-1, 3]] * 3), "returns": torch.ones(3, 2)}
    plain = _model()
    scaled = _model(shift=[[0.5] * 3] * 2, scale=[[2.0] * 3] * 2)
    rescaled = {**inputs, "observations": (inputs["observations"] - 0.5) * 2}
    torch.testing.assert_close(scaled(**inputs).logits, plain(**rescaled).logits)
    told = _model(past_actions=True, return_scale=10.0)
    for change in ({"past_actions": torch.tensor([[-1, 2]] * 3)}, {"returns": 9 * torch.ones(3, 2)}):
        assert not torch.allclose(told(**{**inputs, **change}).logits, told(**inputs).logits)
        torch.testing.assert_close(plain(**{**inputs, **change}).logits, plain(**inputs).logits)


@torch.no_grad()
def test_it_is_saved_and_loaded_with_and_without_danlu(tmp_path: Path) -> None:
    model, inputs = _model(scale=[[2.0] * 3] * 2), _inputs()
    save_model(model, tmp_path / "model", notes={})
    assert (tmp_path / "model" / "policy.py").is_file()
    for loaded in (load_trained(tmp_path / "model").model, AutoModel.from_pretrained(tmp_path / "model")):
        torch.testing.assert_close(loaded.eval()(**inputs).logits, model(**inputs).logits)


def test_all_weights_learn() -> None:
    model = _model(past_actions=True, return_scale=10.0)
    inputs = {**_inputs(), "past_actions": torch.tensor([[-1, 3]] * 3), "returns": torch.ones(3, 2)}
    model(**inputs).logits.square().sum().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


def test_a_vector_is_one_object() -> None:
    model = _model(num_objects=1)
    inputs = {"observations": torch.randn(2, 1, 1, 3), "attention_mask": torch.ones(2, 1, dtype=torch.int64)}
    assert model(**inputs).logits.shape == (2, 5)
