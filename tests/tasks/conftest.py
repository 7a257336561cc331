"""Made-up reviews whose label follows from their words."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

GOOD = ("lovely", "great", "perfect", "soft", "beautiful")
BAD = ("awful", "itchy", "cheap", "ugly", "torn")
MIDDLING = ("plain", "ordinary", "average", "usual", "fair")
FILLERS = ("the", "dress", "fits", "me", "and", "i", "wore", "it", "to", "work", "with", "my", "shoes", "in", "town")
WORDS = {"bad": BAD, "good": GOOD, "middling": MIDDLING}

Row = Mapping[str, object]


def review(draw: random.Random, words: tuple[str, ...], length: int = 10) -> str:
    """Fillers with one telling word among them."""
    text = [draw.choice(FILLERS) for _ in range(draw.randrange(4, length))]
    text.insert(draw.randrange(len(text)), draw.choice(words))
    return " ".join(text)


def reviews(count: int, seed: int, labels: tuple[str, ...] = ("bad", "good")) -> list[Row]:
    draw = random.Random(seed)
    chosen = [draw.choice(labels) for _ in range(count)]
    return [{"text": review(draw, WORDS[label]), "label": label} for label in chosen]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[Row]], str]:
    """write("a.jsonl", rows) -> path; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write_rows(name: str, rows: list[Row]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write_rows
