"""Text classification: labels found, texts encoded, and whole small runs from train to report."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.core.errors import DataError, RequestError
from danlu.data.config import DataConfig, TokenizerConfig
from danlu.recipe.load import read_tree
from danlu.stages.evaluate import evaluate
from danlu.stages.predict import predict
from danlu.stages.train import train
from danlu.tasks.base import Prepared
from danlu.tasks.text_classification import TextClassification

from .conftest import GOOD, Row, review, reviews

Write = Callable[[str, list[Row]], str]


def prepare(task: TextClassification, train_path: str, **data: Any) -> Prepared:
    given = {"valid": "20%", "context": 24, "tokenizer": TokenizerConfig(train="bpe", size=400), **data}
    return task.prepare(DataConfig(train=train_path, **given), seed=0, base=None, say=lambda _text: None)


def tree(task: Mapping[str, object], data: Mapping[str, object], family: str = "bert", epochs: int = 6) -> Any:
    return {
        "name": "tiny",
        "task": {"kind": "text-classification", **task},
        "data": {"context": 24, "tokenizer": {"train": "bpe", "size": 400}, **data},
        "model": {"design": {"family": family, "layers": 2, "width": 32, "heads": 2}},
        "train": {
            "budget": {"epochs": epochs},
            "batch": {"examples": 16},
            "micro_batch": 16,
            "optimizer": {"lr": 3e-3},
            "evaluate_every": {"epochs": epochs},
            "precision": "fp32",
        },
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("values", "options", "target", "names"),
    [
        (["b", "a", "b", "a"], {}, "label", ("a", "b")),
        ([1, 0, 10, 2], {}, "label", ("0", "1", "2", "10")),
        ([True, False, True, False], {}, "label", ("false", "true")),
        ([1.0, 2.0, 1.0, 2.0], {}, "label", ("1", "2")),
        ([0.5, 2, 1.25, 3], {}, "number", ()),
        ([1, 2, 3, 4], {"target": "number"}, "number", ()),
        ([["x", "y"], [], ["y"], ["x"]], {}, "labels", ("x", "y")),
        (["x; y", "y", "z", "x"], {"separator": ";"}, "labels", ("x", "y", "z")),
        (["b", "a", "b", "a"], {"labels": ("b", "a"), "target": "label"}, "label", ("b", "a")),
    ],
)
def test_the_label_column_says_what_it_is(
    write: Write, values: list[object], options: dict[str, Any], target: str, names: tuple[str, ...]
) -> None:
    path = write("a.jsonl", [{"text": f"some words {at}", "label": values[at % 4]} for at in range(12)])
    made = prepare(TextClassification(**options), path)
    problem = {"label": "single_label_classification", "labels": "multi_label_classification", "number": "regression"}
    assert made.model_options["problem_type"] == problem[target]
    assert made.model_options["id2label"] == (dict(enumerate(names)) or {0: "number"})


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "a", "label": "x"}] * 4, {}, "holds 1 label; to tell apart takes two"),
        ([{"text": "a", "label": f"n{at}"} for at in range(60)], {}, "60 different labels in 60 rows"),
        ([{"text": "a", "size": 1}] * 4, {}, "no column for 'label'"),
        (
            [{"text": "a", "label": ["x"]}, {"text": "a", "label": ["y"]}],
            {"class_weights": "balanced"},
            "one label each",
        ),
        ([{"text": "a", "label": 1.5}, {"text": "a", "label": 2}], {"judge": "macro_f1"}, "no metric 'macro_f1'"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], {"metrics": ["nowhere:f"]}, "no module 'nowhere'"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], {"metrics": ["json:f"]}, "no function 'f'"),
    ],
)
def test_what_cannot_be_asked_is_told(write: Write, rows: list[Row], options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        prepare(TextClassification(**options), write("a.jsonl", rows))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"text": "new", "label": "goood"},
            r"valid\.jsonl, row 3, field label: holds the label 'goood'.*Did you mean 'good'",
        ),
        ({"text": "new", "label": ""}, r"row 3, field label: holds no label"),
        ({"text": "", "label": "good"}, r"row 3, field text: holds no text"),
        ({"text": "new"}, r"row 3, field label: is missing"),
        ({"text": "new", "label": ["good", "bad"]}, r"row 3, field label: holds 2 labels"),
    ],
)
def test_a_bad_row_is_named_or_skipped(write: Write, bad: Row, message: str) -> None:
    path, valid = write("train.jsonl", reviews(40, 0)), write("valid.jsonl", [*reviews(2, 1), bad])
    with pytest.raises(DataError, match=message):
        prepare(TextClassification(), path, valid=valid)
    made = prepare(TextClassification(), path, valid=valid, on_bad="skip")
    assert [len(made.valid), [row["row"] for row in made.skipped]] == [2, [3]]


def test_long_texts_are_cut_or_refused(write: Write) -> None:
    rows = [*reviews(40, 0), {"text": "lovely " * 50, "label": "good"}]
    path = write("a.jsonl", rows)
    made = prepare(TextClassification(), path, valid=path)
    tokenizer = made.tools
    assert made.facts["train_truncated"] == 1
    ids = np.asarray(made.train[40]["input_ids"])
    assert (len(ids), ids[0], ids[-1]) == (24, tokenizer.bos_token_id, tokenizer.eos_token_id)
    with pytest.raises(DataError, match=r"row 41, field text: is .* tokens long"):
        prepare(TextClassification(), path, valid=path, long="refuse")
    with pytest.raises(RequestError, match="cannot be split"):
        prepare(TextClassification(), path, valid=path, long="split")


def test_pairs_are_joined_as_the_tokenizer_does(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    from danlu.data.columns import Columns
    from danlu.data.labelled import LabelledEncoder

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "one", "two", "three"]
    tokenizer = BertTokenizer(vocab={word: at for at, word in enumerate(words)})
    columns = Columns(kind="text", by_role={"text": "x", "text_pair": "y"})
    for first, second in [("one two", "three"), ("one", "two three one two three"), ("one two three " * 4, "two")]:
        encoder = LabelledEncoder(tokenizer, columns, None, context=9)
        ours = encoder.one({"x": first, "y": second})
        theirs = tokenizer(first, second, truncation="longest_first", max_length=9)
        assert ours["input_ids"].tolist() == theirs["input_ids"]
        assert ours["token_type_ids"].tolist() == theirs["token_type_ids"]


def test_balanced_weights_are_those_of_the_formula(write: Write) -> None:
    rows = reviews(30, 0, ("bad",)) + reviews(10, 1, ("good",))
    path = write("a.jsonl", rows)
    made = prepare(TextClassification(class_weights="balanced"), path, valid=path)
    batch = TextClassification().collate([made.train[0], made.train[35]], torch.arange(2))
    assert batch.weights_B is not None
    assert batch.weights_B.tolist() == pytest.approx([40 / (2 * 30), 40 / (2 * 10)])
    assert "weight" not in made.valid[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, trained until they are told apart, judged by macro F1 and a metric of the user's own."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.chdir(folder)
        for name, rows in (("train", reviews(300, 1)), ("valid", reviews(60, 2))):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "our_metrics.py").write_text(
            "def share_good(probabilities, truth, names):\n    return (truth == names.index('good')).mean()\n"
        )
        task = {"judge": "macro_f1", "class_weights": "balanced", "metrics": ["our_metrics:share_good"]}
        recipe = read_tree(tree(task, {"train": "train.jsonl", "valid": "valid.jsonl"}))
        return train(recipe, out=folder / "run")


def test_a_run_learns_and_says_how_well(run: Path) -> None:
    best = json.loads((run / "summary.json").read_text())["metrics"]["best"]
    assert best["macro_f1"] > 0.9
    assert best["share_good"] == pytest.approx(np.mean([row["label"] == "good" for row in reviews(60, 2)]))
    records = lines(run / "journal.jsonl")
    record = next(record for record in records if record["kind"] == "evaluation" and record["best"])
    assert (record["judged"], record["better"]) == ("macro_f1", "higher")
    counts = np.array(record["tables"]["confusion"]["counts"])
    assert counts.sum() == 60
    assert np.trace(counts) / 60 == pytest.approx(best["accuracy"])
    sample = next(record for record in reversed(records) if record["kind"] == "sample")
    assert sample["truth"] in ("bad", "good")
    page = (run / "report.html").read_text()
    assert "Class by class" in page
    assert "The data say:" in page


def test_the_model_names_its_labels_in_plain_transformers(run: Path) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(run / "model"), device="cpu")
    assert classify("lovely dress and soft")[0]["label"] == "good"
    assert classify("awful dress and itchy")[0]["label"] == "bad"


def test_predictions_go_round(run: Path, tmp_path: Path) -> None:
    """Evaluated against its own predictions, the model is always right; and they are the journal's metrics' source."""
    unlabelled = tmp_path / "rows.jsonl"
    unlabelled.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in reviews(40, 3)))
    out = tmp_path / "out.jsonl"
    assert predict(run, input=unlabelled, out=out) == 40
    for row in lines(out):
        assert sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
        assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].get)
    columns = {"columns": {"text": "text", "label": "prediction"}, "cache": str(tmp_path / "cache")}
    metrics = evaluate(run, data=str(out), out=tmp_path / "metrics.json", overrides={**columns})
    assert metrics["accuracy"] == 1.0
    assert "confusion" in json.loads((tmp_path / "metrics.json").read_text())["tables"]


def test_evaluate_gives_the_metrics_of_training(run: Path, tmp_path: Path) -> None:
    best = json.loads((run / "summary.json").read_text())["metrics"]["last"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parent)
        found = evaluate(run, data=str(run.parent / "valid.jsonl"), overrides={"cache": str(tmp_path)})
    assert found["loss"] == pytest.approx(best["loss"], rel=1e-4)
    assert found["accuracy"] == best["accuracy"]


def test_a_later_source_with_another_label_is_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "later.jsonl"
    path.write_text(json.dumps({"text": "a dress", "label": "middling"}) + "\n")
    with pytest.raises(
        DataError, match=r"later.jsonl, row 1, field label: holds the label 'middling'.*Known are bad, good"
    ):
        evaluate(run, data=str(path), overrides={"cache": str(tmp_path)})


def several(count: int, seed: int) -> list[Row]:
    """Two words a text, and the labels that belong to them."""
    draw = random.Random(seed)
    rows: list[Row] = []
    for _ in range(count):
        kinds = draw.choice([[], ["good"], ["middling"], ["good", "middling"]])
        words = {"good": "lovely", "middling": "plain"}
        rows.append({"text": " ".join(["a dress", *(words[kind] for kind in kinds)]), "label": kinds})
    return rows


def test_several_labels_from_weights_and_csv(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    rows = several(300, 0)
    path.write_text("text,tags\n" + "".join(f'"{row["text"]}","{"|".join(row["label"])}"\n' for row in rows))  # type: ignore[arg-type]
    folder = train(
        read_tree(tree({"separator": "|"}, {"train": str(path), "valid": "20%"}, epochs=14)), out=tmp_path / "run"
    )
    best = json.loads((folder / "summary.json").read_text())["metrics"]["best"]
    assert best["subset_accuracy"] > 0.9
    out = tmp_path / "out.jsonl"
    predict(folder, input=write("ask.jsonl", [{"text": "a dress lovely plain"}]), out=out)
    assert lines(out)[0]["prediction"] == ["good", "middling"]
    again = tree({}, {"train": write("lists.jsonl", rows), "valid": "20%", "tokenizer": None}, epochs=1)
    again["model"] = {"from": str(folder / "model")}
    assert train(read_tree(again), out=tmp_path / "again").is_dir()


def test_a_decoder_learns_a_number_of_a_pair(write: Write, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows: list[Row] = []
    for _ in range(200):
        number = draw.choice([0.5, -1.0])
        rows.append(
            {"sentence1": "a dress", "sentence2": review(draw, GOOD if number > 0 else ("awful",), 6), "score": number}
        )
    recipe = read_tree(tree({}, {"train": write("a.jsonl", rows), "valid": "20%"}, family="llama", epochs=8))
    folder = train(recipe, out=tmp_path / "run")
    best = json.loads((folder / "summary.json").read_text())["metrics"]["best"]
    assert best["rmse"] < 0.3
    assert best["loss"] == pytest.approx(best["rmse"] ** 2, rel=1e-4)
    out = tmp_path / "out.jsonl"
    ask = [{"sentence1": "a dress", "sentence2": text} for text in ("it was awful", "it was lovely on me")]
    predict(folder, input=write("ask.jsonl", ask), out=out)
    low, high = (row["prediction"] for row in lines(out))
    assert low < high
