"""A tiny language model in a folder, as training leaves it."""

from pathlib import Path

import pytest
import torch

from danlu.data.config import DataConfig, TokenizerConfig
from danlu.data.tokenizers import make_tokenizer
from danlu.models.save import save_model
from danlu.tasks.text_generation import TextGeneration

TEXT = "def add(first, second):\n    return first + second\n\n\nclass Stack:\n    def push(self, item):\n        pass\n"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """An untrained llama of 2 layers over a BPE of 300 entries; danlu.json says that it learnt plain text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = make_tokenizer(
        TokenizerConfig(train="bpe", size=300), lambda: [TEXT] * 20, key="tests", cache=folder / "cache"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    data = DataConfig(train="x", context=64, format="text", cache=str(folder / "cache"))
    notes = {"danlu": "0", **TextGeneration().notes(data)}
    save_model(LlamaForCausalLM(config), folder / "model", tools=tokenizer, notes=notes)
    return folder / "model"


@pytest.fixture
def furnace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some text, words.txt, in which the test runs on one thread."""
    lines = [f"the {n % 7} furnace melts {n * n % 13} parts of lead and {n * n * n % 11} of gold" for n in range(300)]
    (tmp_path / "words.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path
