import json
from pathlib import Path

import pytest

from danlu.data.config import TokenizerConfig
from danlu.data.tokenizers import make_tokenizer

TEXTS = [
    "The furnace keeps one steady fire, and the alchemist watches it.\n",
    "def burn(wood: int) -> float:\n    return wood * 0.5\n",
    "Ein Ofen braucht Holz; 丹炉 needs time. Żółć!\n",
]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own; the user's is out of reach."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory):
    """A small byte-level BPE, as saved by danlu."""
    folder = tmp_path_factory.mktemp("tokenizer")
    config = TokenizerConfig(train="bpe", size=400)
    make_tokenizer(config, lambda: TEXTS * 4, key="tests", cache=folder / "cache").save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.fixture
def tokenizer(trained_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(trained_folder)


@pytest.fixture
def write(tmp_path):
    """write("a.jsonl", [{...}]) or write("a.txt", "...") -> path"""

    def write_file(name: str, content: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            assert isinstance(content, list)
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    return write_file
