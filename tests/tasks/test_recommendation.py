"""Recommendation: whole small runs from train to report, for each objective, and what is refused."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import DataError, RequestError
from danlu.data.config import DataConfig
from danlu.recipe.load import read_tree
from danlu.stages.evaluate import evaluate
from danlu.stages.predict import predict
from danlu.stages.train import train
from danlu.tasks.recommendation import Recommendation

NUM_ITEMS = 20


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Users walk through the items in a circle, from where they please; what they rate is told by the item."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = random.Random(0)
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(60):
        start = draw.randrange(NUM_ITEMS)
        for place in range(draw.randrange(6, 12)):
            item = (start + place) % NUM_ITEMS
            rows.append(f"u{user}\ti{item}\t{1 + item % 5}\t{1000 * user + place}")
    path = tmp_path / "walks.inter"
    path.write_text("\n".join(rows) + "\n")
    (tmp_path / "walks.item").write_text(
        "item_id:token\tmovie_title:token_seq\n" + "".join(f"i{at}\tFilm {at}\n" for at in range(NUM_ITEMS))
    )
    return path


def tree(table: Path, epochs: int, family: str = "llama", **task: Any) -> Any:
    return {
        "name": "tiny",
        "task": {"kind": "recommendation", **task},
        "data": {"train": str(table), "context": 16},
        "model": {"design": {"family": family, "layers": 2, "width": 32, "heads": 2}},
        "train": {
            "budget": {"epochs": epochs},
            "batch": {"examples": 16},
            "micro_batch": 16,
            "optimizer": {"lr": 1e-2},
            "evaluate_every": {"epochs": epochs},
            "precision": "fp32",
        },
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(run: Path, rows: list[dict[str, object]], **options: object) -> list[dict[str, Any]]:
    asked, told = run.parent / "asked.jsonl", run.parent / "told.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict(run, input=asked, out=told, options=options)
    return lines(told)


def test_a_whole_run_learns_what_comes_next(table: Path, tmp_path: Path) -> None:
    run = train(read_tree(tree(table, 15, "hstu", items=str(tmp_path / "walks.item"))), out=tmp_path / "run")
    metrics = evaluate(run, data=str(table), out=tmp_path / "metrics.json")
    assert metrics["hr@5_unseen"] > 0.9
    assert metrics["ndcg@10"] <= metrics["ndcg@10_unseen"]
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["metrics"] == pytest.approx(metrics)
    assert sum(row[1] for row in found["tables"]["slices"]["rows"][-3:]) == 60
    best, again = answers(run, [{"history": ["i3", "i4", "i5"]}, {"history": "i18 i19 i0"}], top=2)
    assert best["prediction"][0] == "i6"
    assert best["titles"][0] == "Film 6"
    assert best["scores"][0] > best["scores"][1]
    assert again["prediction"][0] == "i1"
    first = [row.split("\t") for row in table.read_text().splitlines() if row.startswith("u0\t")]
    known = {"history": [row[1] for row in first], "times": [int(row[3]) for row in first]}
    by_name, by_history = answers(run, [{"user": "u0"}, known], table=str(table))
    assert by_name["prediction"] == by_history["prediction"]
    with pytest.raises(DataError, match="row 1, field user: 'nobody' is not in"):
        answers(run, [{"user": "nobody"}], table=str(table))
    report = (run / "report.html").read_text()
    assert "Recommended lists" in report
    assert '<li class="right" dir="auto">✓ Film ' in report


def test_masked_items(table: Path, tmp_path: Path) -> None:
    run = train(read_tree(tree(table, 4, "bert", objective="masked", copies=10)), out=tmp_path / "run")
    assert json.loads((run / "model" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    assert evaluate(run, data=str(table))["hr@5_unseen"] > 0.7
    (told,) = answers(run, [{"history": ["i3", "i4", "i5"]}])
    assert "i6" in told["prediction"][:3]
    assert not {"i3", "i4", "i5"} & set(told["prediction"])
    (repeated,) = answers(run, [{"history": ["i3", "i4", "i5"]}], repeat=True, top=NUM_ITEMS)
    assert set(repeated["prediction"]) == {f"i{at}" for at in range(NUM_ITEMS)}


def test_ratings(table: Path, tmp_path: Path) -> None:
    run = train(read_tree(tree(table, 15, objective="rating")), out=tmp_path / "run")
    metrics = evaluate(run, data=str(table))
    assert metrics["rmse"] < 0.5
    assert metrics["mae"] <= metrics["rmse"]
    first, second = answers(
        run, [{"history": ["i3"], "ratings": [4], "item": "i9"}, {"history": [], "ratings": [], "item": "i10"}]
    )
    assert first["prediction"] == pytest.approx(5, abs=0.6)
    assert second["prediction"] == pytest.approx(1, abs=0.6)


@pytest.fixture
def model(table: Path, tmp_path: Path) -> Path:
    return train(read_tree(tree(table, 1)), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"history": ["i1", "i99"]},
            "asked.jsonl, row 1, field history: holds the item 'i99', which is not among the 20",
        ),
        ({"history": []}, "row 1, field history: is not a list of items"),
        ({"past": ["i1"]}, "row 1, field history: is not a list of items"),
        ({"history": ["i1"], "times": [1, 2]}, "row 1, field times: is not a list as long as the history"),
    ],
)
def test_rows_that_cannot_be_answered(model: Path, row: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        answers(model, [row])
    assert not (model.parent / "told.jsonl").exists()


def test_an_unknown_item_in_an_evaluation(model: Path, table: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.inter"
    other.write_text(table.read_text() + "u1\tbrand-new\t3\t7\n")
    number = len(other.read_text().splitlines())
    with pytest.raises(DataError, match=f"other.inter, row {number}, field item_id: holds the item 'brand-new'"):
        evaluate(model, data=str(other))
    known = evaluate(model, data=str(other), overrides={"on_bad": "skip"})
    assert known == pytest.approx(evaluate(model, data=str(table)))


@pytest.mark.parametrize(
    ("task", "data", "said"),
    [
        ({}, {"valid": "10%"}, "data.valid: the item before each user's last one"),
        ({"judge": "hr@7"}, {}, r"task.judge: there is no metric 'hr@7'.*Did you mean"),
        ({"core": 50}, {}, "no user and item have 50 interactions each"),
        ({"objective": "rating"}, {"columns": {"user": "user_id", "rating": "stars"}}, "has no column 'stars'"),
        ({}, {"format": "messages"}, "data.format: recommendation reads a table"),
    ],
)
def test_requests_that_are_refused(table: Path, task: dict[str, Any], data: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Recommendation(**task).prepare(DataConfig(train=str(table), **data), seed=0, base=None, say=lambda _text: None)


def test_numbers_that_are_no_levels(table: Path) -> None:
    head, *rows = table.read_text().splitlines()
    parts = [row.split("\t") for row in rows]
    table.write_text("\n".join([head, *("\t".join([p[0], p[1], str(at / 7), p[3]]) for at, p in enumerate(parts))]))
    with pytest.raises(DataError, match="different values, more than the 50 that fit"):
        Recommendation(objective="rating").prepare(
            DataConfig(train=str(table)), seed=0, base=None, say=lambda _text: None
        )


def test_a_second_training_keeps_the_items_of_the_first(model: Path, table: Path, tmp_path: Path) -> None:
    more = tree(table, 1)
    more["model"] = {"from": str(model / "model")}
    again = train(read_tree(more), out=tmp_path / "again")
    tokens = [(run / "model" / "tokenizer.json").read_text() for run in (model, again)]
    assert tokens[0] == tokens[1]
