"""A run with a rate that is a hundred times too high: rescued, explained, replayed, improved."""

import json
from pathlib import Path

import pytest

from danlu.core.errors import RunError
from danlu.core.journal import read_journal
from danlu.recipe import document
from danlu.recipe.load import load_recipe, read_tree
from danlu.stages.improve import changes_for, improve
from danlu.stages.replay import replay
from danlu.stages.report.records import load_run
from danlu.stages.train import train

RECIPE = """
name: tiny
task: text-generation
data: {{train: {place}/words.txt, valid: 10%, context: 32, tokenizer: {{train: bpe, size: 300}}, cache: {place}/cache}}
model: {{design: {{family: llama, layers: 2, width: 32, heads: 2, kv_heads: 1}}}}
train:
  budget: {{steps: 120}}
  batch: {{tokens: 256}}
  micro_batch: 8
  precision: fp32
  optimizer: {{kind: sgd, lr: {lr}}}
  evaluate_every: {{steps: 20}}
  log_every: {{steps: 1}}
  schedule: {{warmup: 50%}}
  samples: false
control: {control}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("loop")
    lines = [f"the {n % 7} furnace melts {n * n % 13} parts of lead and {n * n * n % 11} of gold" for n in range(1500)]
    (place / "words.txt").write_text("\n".join(lines), encoding="utf-8")
    return place


def run(place: Path, lr: float, control: str) -> Path:
    recipe = place / f"{control}-{lr}.yaml"
    recipe.write_text(RECIPE.format(place=place, lr=lr, control=control), encoding="utf-8")
    return train(load_recipe(recipe), out=place / recipe.stem)


@pytest.fixture(scope="module")
def healthy(place: Path) -> Path:
    return run(place, 0.2, "auto")


@pytest.fixture(scope="module")
def rescued(place: Path) -> Path:
    return run(place, 20.0, "auto")


def best(folder: Path) -> float:
    return float(json.loads((folder / "summary.json").read_text())["metrics"]["best"]["loss"])


def test_a_healthy_run_is_left_alone(healthy: Path) -> None:
    assert load_run(healthy).of("action", "verdict") == []


def test_a_rate_much_too_high_is_lowered_in_the_run(place: Path, rescued: Path) -> None:
    with pytest.raises(RunError, match="the loss became"):
        run(place, 20.0, "off")
    assert load_run(place / "off-20.0").of("action")[-1]["by"] == "stop_on_nan"
    known = load_run(rescued)
    assert known.status == "finished"
    assert best(rescued) < known.metric("loss").ys[0] / 2
    assert {str(record["by"]) for record in known.of("action")} >= {"rewind_and_halve"}
    verdict = known.of("verdict")[-1]
    assert (verdict["kept"], verdict["reading"]) == (True, "loss")
    page = (rescued / "report.html").read_text(encoding="utf-8")
    for told in ("Went back to", "It helped, and stays"):
        assert told in page


def test_the_journal_gives_the_same_decisions_again(rescued: Path, tmp_path: Path) -> None:
    result = replay(rescued)
    assert result.same, result
    assert result.counts["finding"] > 0
    assert result.counts["action"] > 0
    doctored = tmp_path / "doctored"
    doctored.mkdir()
    lines = (rescued / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["kind"] != "verdict" and '"kind": "action"' not in line]
    (doctored / "journal.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    (doctored / "recipe.yaml").write_text((rescued / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert replay(doctored).only_again


def test_the_next_recipe_says_why_and_is_kept_only_where_better(place: Path, rescued: Path) -> None:
    before = best(rescued)
    result = improve(rescued)
    assert any(change.place == "train.optimizer.lr" and change.after < 20.0 for change in result.changes)
    text = (rescued / "next.yaml").read_text(encoding="utf-8")
    assert "# was 20.0: " in text
    assert read_tree(document.parse(text, source="next")).train.optimizer.lr < 20.0  # type: ignore[arg-type]
    result = improve(rescued, rounds=1)
    (entry,) = result.rounds
    assert entry.kept == (entry.score < before)
    assert (result.path is not None) == entry.kept == (rescued / "next.yaml").exists()
    assert json.loads((rescued / "improve.json").read_text())["rounds"][0]["kept"] is entry.kept


def test_a_run_that_failed_leaves_a_next_recipe(place: Path) -> None:
    with pytest.raises(RunError):
        run(place, 1e6, "off")
    text = (place / "off-1000000.0" / "next.yaml").read_text(encoding="utf-8")
    assert "nan loss" in text
    assert read_tree(document.parse(text, source="next")).train.optimizer.lr < 1e6  # type: ignore[arg-type]


def test_what_findings_ask_for(healthy: Path) -> None:
    known = load_run(healthy)

    def after(name: str, tree: dict[str, object] | None = None) -> dict[str, object]:
        finding = {"kind": "finding", "step": 5, "name": name, "severity": "warning", "sentence": ""}
        run = known.__class__(**{**vars_of(known), "records": (finding,)})
        return {change.place: change.after for change in changes_for({**known.recipe, **(tree or {})}, run)}

    assert after("rate_too_low") == {"train.optimizer.lr": 2.0}
    assert after("batch_too_small") == {"train.batch.tokens": 1024}
    assert after("overfitting") == {"techniques.weight_decay.l2": 0.1, "techniques.early_stop": {"patience": 3}}
    assert after("over_regularised", {"techniques": {"dropout": {"p": 0.8}}}) == {"techniques.dropout.p": 0.1}
    assert after("class_imbalance") == {}  # the task knows no classes
    assert after("plateau") == {}


def vars_of(known: object) -> dict[str, object]:
    names = ("folder", "records", "told", "summary", "recipe_text", "recipe", "model_config")
    return {name: getattr(known, name) for name in names}


def test_nothing_is_asked_of_a_healthy_run(healthy: Path) -> None:
    result = improve(healthy)
    assert (result.path, result.changes) == (None, ())
    assert not (healthy / "next.yaml").exists()
    assert [record["kind"] for record in read_journal(healthy / "journal.jsonl")][-1] == "end"
