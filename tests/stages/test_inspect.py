"""Inspect: what is in a table of texts and labels, what is wrong with it, and what it asks for."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
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


def test_labels_that_a_classifier_contradicts_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw, rows, wrong = random.Random(1), [], set()
    for at in range(300):
        kind = at % 3
        words = draw.choices(WORDS[:50], k=6) + draw.choices(WORDS[100 + 20 * kind : 120 + 20 * kind], k=8)
        rows.append({"text": " ".join(words), "label": "abc"[kind]})
        if at % 15 == 4:
            wrong.add(at + 1)
            rows[-1]["label"] = "abc"[(kind + 1) % 3]
    path = tmp_path / "kinds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = inspect(str(path), task="text-classification", overrides={"valid": "10%"})
    fault = next(fault for fault in found.faults if fault.title == "likely wrong labels")
    assert fault.number >= 10
    told = {int(row.partition(": ")[0].rpartition("row ")[2]) for row in fault.rows}
    assert len(told) == 10
    assert told <= wrong
    assert "c, rather b" in "".join(fault.rows)


def test_pictures_are_compared_by_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digits = load_digits()
    for at in range(300):
        folder = tmp_path / "digits" / str(digits.target[at] if at != 50 else (digits.target[at] + 1) % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[at] * 15).astype(np.uint8)).resize((40, 48)).save(folder / f"{at}.png")
    folder = tmp_path / "digits" / "0"
    Image.open(folder / "0.png").save(folder / "same.bmp")
    brighter = np.asarray(Image.open(folder / "10.png")).astype(int) + 3
    Image.fromarray(brighter.clip(0, 255).astype(np.uint8)).save(folder / "near.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    found = inspect(str(tmp_path / "digits"), task="image-classification")
    faults = {fault.title: fault for fault in found.faults}
    assert faults["equal rows"].number == 1
    assert "same.bmp" in faults["equal rows"].rows[0]
    assert any("10.png" in row and "near.png" in row for row in faults["nearly equal rows"].rows)
    assert faults["broken rows"].number == 1
    assert "broken.jpg" in faults["broken rows"].rows[0]
    assert any("/50.png" in row for row in faults["likely wrong labels"].rows[:3])
    assert dict(found.facts[2].lines)["width in pixels"].startswith("40, 40")


def test_annotated_pictures_are_read_as_training_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    images, marks = [], []
    for at in range(6):
        Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(tmp_path / f"{at}.png")
        images.append({"id": at, "file_name": f"{at}.png", "height": 30, "width": 40})
        marks += [{"id": 2 * at + k, "image_id": at, "category_id": k, "bbox": [2, 3, 9, 9]} for k in range(2)]
    marks[-1]["bbox"] = [35, 3, 30, 9]
    kinds = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": marks, "categories": kinds}))
    found = inspect(str(path), task="object-detection", overrides={"valid": "20%"})
    facts = {fact.title: dict(fact.lines) for fact in found.facts}
    assert facts["labels: 2 different ones"] == {"cat": "5 (50.0%)", "dog": "5 (50.0%)"}
    assert "annotations[11].bbox" in next(fault for fault in found.faults if fault.title == "broken rows").rows[0]
