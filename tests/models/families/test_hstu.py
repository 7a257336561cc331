"""HSTU as a model of transformers: it looks back alone, knows time, and loads where danlu is not."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from danlu.models.build import build_model
from danlu.models.config import ModelConfig
from danlu.models.forward import Forward
from danlu.models.save import load_trained, save_model

LATE = 90_000


@pytest.fixture(scope="module")
def model():
    design = {"family": "hstu", "layers": 2, "width": 32, "heads": 2, "options": {"initializer_range": 0.3}}
    made = build_model(
        ModelConfig.model_validate({"design": design}), auto_class="AutoModelForCausalLM", vocab_size=40, context=12
    )
    return made.eval()


def logits(model, items, times=None):
    given = {"timestamps": torch.tensor([times])} if times else {}
    with torch.no_grad():
        return model(input_ids=torch.tensor([items]), **given).logits[0]


def test_it_sees_what_came_before_alone(model):
    first, second = logits(model, [5, 6, 7, 8]), logits(model, [5, 6, 9, 3])
    assert torch.allclose(first[:2], second[:2])
    assert not torch.allclose(first[2:], second[2:])
    assert torch.allclose(logits(model, [5, 6]), first[:2], atol=1e-6), "padding behind changes nothing"
    assert not torch.allclose(logits(model, [6, 5, 7, 8])[3], first[3]), "order matters"


def test_time_matters_by_its_gaps(model):
    soon = logits(model, [5, 6, 7], [0, 10, 20])
    assert torch.allclose(logits(model, [5, 6, 7], [LATE, LATE + 10, LATE + 20]), soon, atol=1e-6)
    later = logits(model, [5, 6, 7], [0, 10, LATE])
    assert torch.allclose(later[:2], soon[:2], atol=1e-6)
    assert not torch.allclose(later[2], soon[2])


def test_its_head_is_left_to_the_loss(model):
    assert Forward(model).fused
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_it_comes_back_from_a_folder(model, tmp_path: Path):
    save_model(model, tmp_path / "model")
    again = load_trained(tmp_path / "model").model
    assert type(again).__name__ == "HstuForCausalLM"
    assert torch.equal(logits(again, [5, 6], [1, 9]), logits(model, [5, 6], [1, 9]))


@pytest.mark.slow
def test_it_loads_without_danlu(model, tmp_path: Path):
    save_model(model, tmp_path / "model")
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM as Auto;"
        f"model = Auto.from_pretrained({str(tmp_path / 'model')!r}, trust_remote_code=True).eval();"
        "assert not any(name.startswith('danlu') for name in sys.modules);"
        "print(float(model(input_ids=torch.tensor([[5, 6]])).logits.sum()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert float(said.stdout) == pytest.approx(float(logits(model, [5, 6]).sum()), rel=1e-4)


def test_the_auto_class_knows_it(model):
    assert type(AutoModelForCausalLM.from_config(model.config)) is type(model)
