"""`lr: find`: the rate is looked for once, and the run is then that of a recipe with this rate."""

from pathlib import Path

import pytest
import yaml

from danlu.core.journal import Record, read_journal
from danlu.recipe.load import read_tree
from danlu.stages.train import train


def _recipe(place: Path, lr: object, steps: int):
    return read_tree(
        {
            "name": "tiny",
            "task": "text-generation",
            "data": {
                "train": str(place / "words.txt"),
                "valid": "10%",
                "context": 32,
                "tokenizer": {"train": "bpe", "size": 300},
                "cache": str(place / "cache"),
            },
            "model": {"design": {"family": "llama", "layers": 1, "width": 32, "heads": 2}},
            "train": {
                "budget": {"steps": steps},
                "batch": {"tokens": 256},
                "micro_batch": 8,
                "precision": "fp32",
                "optimizer": {"lr": lr, "offload": True},
                "log_every": {"steps": 1},
                "samples": False,
            },
        }
    )


def _losses(records: list[Record]) -> list[float]:
    return [record["values"]["loss"] for record in records if record["kind"] == "reading"]  # type: ignore[index]


def test_it_is_found_once_and_then_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"the {n % 7} furnace melts {n * n % 13} parts of lead and {n**3 % 11} of gold" for n in range(600)]
    (tmp_path / "words.txt").write_text("\n".join(lines), encoding="utf-8")
    run = train(_recipe(tmp_path, "find", 4), out=tmp_path / "found")
    written = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    rate = written["train"]["optimizer"]["lr"]
    assert 1e-4 < rate < 0.1
    records = list(read_journal(run / "journal.jsonl"))
    (note,) = [record for record in records if "curve" in record]
    assert note["rate"] == rate
    assert 10 < len(note["curve"]) <= 100
    assert any("offload does nothing" in str(record.get("text")) for record in records)

    given = train(_recipe(tmp_path, rate, 4), out=tmp_path / "given")
    assert _losses(list(read_journal(given / "journal.jsonl"))) == _losses(records)

    train(_recipe(tmp_path, "find", 6), out=run, resume=True)
    records = list(read_journal(run / "journal.jsonl"))
    assert sum("curve" in record for record in records) == 1
    assert yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["train"]["optimizer"]["lr"] == rate
    assert len(_losses(records)) == 6
