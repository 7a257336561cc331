import json
import resource
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import AutoModelForCausalLM

from danlu.core.errors import RunError
from danlu.models.forward import Forward
from danlu.models.save import load_trained, save_model
from tests.models.conftest import Make

IDS = torch.tensor([[3, 14, 15, 92, 65]])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_transformers_alone_gives_the_same_logits(tiny: Make, tmp_path: Path, family: str) -> None:
    model = tiny(family, tie=True).train()
    layers = model.model.layers if family == "llama" else model.transformer.h
    layers[0] = checkpoint_wrapper(layers[0])
    save_model(Forward(model), tmp_path / "model", notes={"danlu": "1", "task": {"kind": "text-generation"}})
    assert model.training
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model.eval()(IDS).logits)
    trained = load_trained(tmp_path / "model")
    assert type(trained.model) is type(model)
    assert trained.tools is None
    assert trained.notes == {"danlu": "1", "task": {"kind": "text-generation"}}


def test_a_full_disk_leaves_the_model_that_was_there(tiny: Make, tmp_path: Path) -> None:
    save_model(tiny(seed=1), tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    room, deaf = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, room[1]))
    try:
        with pytest.raises(RunError, match=r"could not be written: .*What was there before is unchanged"):
            save_model(tiny(seed=2), tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
        signal.signal(signal.SIGXFSZ, deaf)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    save_model(tiny(seed=2), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() != before


def test_wrappers_are_looked_through(tiny: Make, tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

    save_model(Outer(Forward(tiny())), tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    with pytest.raises(TypeError, match="holds no transformers model"):
        save_model(nn.Linear(2, 2), tmp_path / "other")
