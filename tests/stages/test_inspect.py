"""Inspect: what is in a table of texts and labels, what is wrong with it, and what it asks for."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from danlu.cli.main import _app
from danlu.core.errors import DataError, RequestError
from danlu.stages.inspect import inspect

WORDS = [f"word{number}" for number in range(400)]


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """200 rows: one equal to another, one nearly so, one of a third with another label, two broken ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = random.Random(0)
    rows = [{"text": " ".join(draw.choices(WORDS, k=30)), "label": "yes" if at % 10 else "no"} for at in range(200)]
    rows += [dict(rows[3]), {**rows[5], "text": rows[5]["text"].replace(" word", " WORD") + " again"}]
    rows += [{**rows[7], "label": "no"}, {"text": "", "label": "yes"}, {"text": "fine", "label": None}]
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_faults_are_found_and_named(reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    found = inspect(str(reviews), task="text-classification", out=out, overrides={"valid": "50%"})
    faults = {fault.title: fault for fault in found.faults}
    assert faults["equal rows"].number == 2
    assert faults["nearly equal rows"].number == 1
    assert faults["rows alike with different labels"].number == 1
    assert "yes and no" in faults["rows alike with different labels"].rows[0]
    assert [row.partition(": ")[0].rpartition("row ")[2] for row in faults["broken rows"].rows] == ["204", "205"]
    across = faults.get("rows on both sides of the split")
    assert across is None or across.number <= 3
    facts = {fact.title: dict(fact.lines) for fact in found.facts}
    assert facts["labels: 2 different ones"]["no"].startswith("21 ")
    assert facts["size"]["good rows"] == "203"
    settings = {one.setting: one.reason for one in found.suggestions}
    assert {"task.class_weights: balanced", "data.on_bad: skip"} <= settings.keys()
    assert any(setting.startswith("data.context: ") for setting in settings)
    page = out.read_text()
    assert "rows alike with different labels" in page
    assert "http://" not in page


def test_the_same_rows_in_train_and_valid_are_told(reviews: Path, tmp_path: Path) -> None:
    other = tmp_path / "valid.jsonl"
    other.write_text("".join(reviews.read_text().splitlines(keepends=True)[:20]))
    found = inspect(str(reviews), task="text-classification", overrides={"valid": str(other)})
    assert next(fault for fault in found.faults if "both sides" in fault.title).number >= 20


def test_the_command_prints_it(reviews: Path) -> None:
    asked = ["inspect", str(reviews), "--task", "text-classification"]
    said = CliRunner().invoke(_app(), [*asked, "valid=50%"])
    assert said.exit_code == 0, said.output
    assert "2 equal rows" in said.output
    assert "settings to begin with" in said.output
    said = CliRunner().invoke(_app(), [*asked, "--json"])
    assert json.loads(said.stdout)["task"] == "text-classification"


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        inspect("./nothing.jsonl")
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(RequestError, match="task"):
        inspect(str(path), task="text-clasification")
