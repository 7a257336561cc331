"""A teacher on disk, and a danlu cache of the test's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conformance.tiny import CONTEXT, VOCAB


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "danlu"


@pytest.fixture
def make_teacher(tmp_path: Path) -> Callable[..., str]:
    """A llama for `tests.conformance.tiny`, wider and deeper than the student there unless told otherwise."""

    def make(name: str = "teacher", **options: object) -> str:
        torch.manual_seed(7)
        sizes = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
        given = {**sizes, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "pad_token_id": 0, **options}
        config = AutoConfig.for_model("llama", **given, bos_token_id=1, eos_token_id=2, initializer_range=0.3)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make
