"""Translation: whole small runs from train to report, on a language whose words stand in the place of another's."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.cli.main import main
from danlu.core.errors import DataError, RequestError
from danlu.data.config import DataConfig
from danlu.models.build import build_model
from danlu.models.config import ModelConfig
from danlu.models.translating import start_of, translated_ids
from danlu.recipe.load import read_tree
from danlu.stages.evaluate import evaluate, evaluated
from danlu.stages.predict import predict
from danlu.stages.train import train
from danlu.tasks import _translation_scores as scores
from danlu.tasks._translation_scores import Translated
from danlu.tasks.translation import Translation

WORDS = {"fire": "Feuer", "wood": "Holz", "burns": "brennt", "slowly": "langsam", "the": "das", "old": "alte"}


def pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = draw.choices(list(WORDS), k=draw.randrange(2, 7))
        rows.append({"en": " ".join(words), "de": " ".join(WORDS[word] for word in words)})
    return rows


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tree(folder: Path, steps: int, **task: object) -> Any:
    return {
        "name": "tiny",
        "task": {"kind": "translation", "num_translated": 20, **task},
        "data": {
            "train": write(folder / "train.jsonl", pairs(300)),
            "valid": write(folder / "valid.jsonl", pairs(40, seed=1)),
            "columns": {"source": "en", "target": "de"},
            "context": 24,
            "tokenizer": {"train": "bpe", "size": 360},
        },
        "model": {"design": {"family": "bart", "layers": 1, "width": 64, "heads": 2, "options": {"init_std": 0.1}}},
        "train": {
            "budget": {"steps": steps},
            "batch": {"tokens": 512},
            "micro_batch": 64,
            "optimizer": {"lr": 4e-3},
            "evaluate_every": {"steps": steps},
            "precision": "fp32",
        },
        "techniques": {"label_smoothing": {"epsilon": 0.1}},
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("translation")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    return train(read_tree(tree(home, 100, judge="chrf")), out=home / "run")


@pytest.fixture(scope="module")
def worse(home: Path) -> Path:
    return train(read_tree(tree(home, 30)), out=home / "worse")


def test_it_learns_and_says_so(run: Path) -> None:
    records = lines(run / "journal.jsonl")
    (evaluation,) = [record for record in records if record["kind"] == "evaluation"]
    assert evaluation["metrics"]["chrf"] > 60
    assert set(evaluation["metrics"]) == {"loss", "perplexity", *scores.SCORES}
    assert (evaluation["judged"], evaluation["better"]) == ("chrf", "higher")
    tables = evaluation["tables"]
    assert "tok:none" not in tables["signatures"]["bleu"]
    assert "tok:13a" in tables["signatures"]["bleu"]
    assert sum(row[1] for row in tables["slices"]["rows"]) == 20
    sample = [record for record in records if record["kind"] == "sample"][-1]
    assert sample["truth"] == " ".join(WORDS[word] for word in sample["prompt"].split())
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "The worst" in page
    assert tables["translations"]["worst"][0]["text"] in page


def test_evaluate_translates_every_row(run: Path, home: Path) -> None:
    metrics = evaluate(run, data=str(home / "valid.jsonl"), out=home / "metrics.json")
    told = json.loads((home / "metrics.json").read_text())
    assert told["metrics"] == metrics
    assert sum(row[1] for row in told["tables"]["slices"]["rows"]) == 40
    two = evaluate(run, data=str(home / "valid.jsonl"), overrides={"task.beams": 3}, batch_tokens=64)
    assert two["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    with pytest.raises(RequestError, match="no such option"):
        evaluate(run, data=str(home / "valid.jsonl"), overrides={"task.beam": 3})


def test_two_runs_are_compared_on_the_same_rows(
    run: Path, worse: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(run, data=str(home / "valid.jsonl"), against=worse)
    row = found.against["chrf"]
    assert row["ours"] == pytest.approx(found.metrics["chrf"])
    assert row["ours"] > row["theirs"]
    assert row["p"] < 0.05
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(run), "--data", str(home / "valid.jsonl"), "--against", str(worse)])
    told = capsys.readouterr().out
    assert f"{worse}: {row['theirs']:.2f}" in told
    assert "nrefs:1|case:mixed|eff:no|tok:13a" in told
    same = evaluated(run, data=str(home / "valid.jsonl"), against=run).against
    assert same["bleu"]["ours"] == same["bleu"]["theirs"]
    assert same["bleu"]["p"] == 1.0


def test_predictions_are_those_of_transformers_alone(run: Path, home: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    rows = [{"en": row["en"], "id": str(at)} for at, row in enumerate(pairs(20, seed=2))]
    out = home / "predicted.jsonl"
    assert predict(run, input=write(home / "ask.jsonl", rows), out=out) == 20
    made = lines(out)
    assert [row["id"] for row in made] == [row["id"] for row in rows]
    model, tokenizer = (kind.from_pretrained(run / "model") for kind in (AutoModelForSeq2SeqLM, AutoTokenizer))
    for row in made[:6]:
        ids = model.generate(**tokenizer(row["en"], return_tensors="pt"), max_new_tokens=40)
        assert row["prediction"] == tokenizer.decode(ids[0], skip_special_tokens=True)
    assert predict(run, input=home / "ask.jsonl", out=home / "beams.jsonl", options={"beams": 4}) == 20


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"en": "fire", "de": ""}, r"bad.jsonl, row 3, field de: holds no text"),
        ({"en": "fire", "de": 5}, r"bad.jsonl, row 3, field de: is a int, not a text"),
        ({"en": "wood " * 40, "de": "Holz"}, r"field en: is \d+ tokens long, the context holds 24"),
    ],
)
def test_bad_rows_are_named(run: Path, home: Path, row: dict[str, object], message: str) -> None:
    path = write(home / "bad.jsonl", [*pairs(2), row])
    with pytest.raises(DataError, match=message):
        evaluate(run, data=path, out=home / "never.json")
    assert not (home / "never.json").exists()


def test_a_judge_must_be_measured() -> None:
    for task, mend in ((Translation(judge="blue"), "bleu"), (Translation(judge="chrf", num_translated=0), "above 0")):
        with pytest.raises(RequestError, match=mend):
            task.prepare(DataConfig(train="x.jsonl"), seed=0, base=None, say=lambda _text: None)
    assert Translation(judge="ter").better == "lower"


@pytest.mark.parametrize("family", ["marian", "t5", "bart", "m2m_100"])
def test_every_family_starts_with_padding_and_writes_rows_as_if_alone(family: str) -> None:
    design = {"family": family, "layers": 1, "width": 32, "heads": 2}
    model = build_model(
        ModelConfig.model_validate({"design": design}),
        auto_class="AutoModelForSeq2SeqLM",
        vocab_size=40,
        context=48,
        options={"decoder_start_token_id": 0},
        special_tokens={"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    )
    assert start_of(model) == 0
    ids_BT = torch.tensor([[5, 6, 7, 8, 9, 2], [5, 11, 2, 0, 0, 0]])
    whole = translated_ids(model, {"input_ids": ids_BT, "attention_mask": (ids_BT != 0).long()}, limit=48)
    alone = translated_ids(model, {"input_ids": ids_BT[1:, :3], "attention_mask": torch.ones(1, 3).long()}, limit=48)
    assert whole[1] == alone[0]
    assert len(alone[0]) <= 2 * 3 + 16
    assert model.training
    forced = translated_ids(model, {"input_ids": ids_BT, "attention_mask": (ids_BT != 0).long()}, first=30, limit=5)
    assert all(row[0] == 30 and len(row) <= 4 for row in forced)


def test_chinese_is_cut_into_characters() -> None:
    rows = [Translated(row=0, num_tokens=3, source="a", text="打开文件", reference="打开文档")]
    assert "tok:zh" in scores.signatures(rows, "auto")["bleu"]
    assert scores.corpus_scores(rows, "auto")["ter"] == pytest.approx(25.0)
    assert "tok:13a" in scores.signatures([rows[0]._replace(reference="Datei öffnen")], "auto")["bleu"]


def test_own_metrics_see_the_texts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "own"
    folder.mkdir()
    (folder / "our_scores.py").write_text(
        "def exact(texts, references, sources):\n"
        "    assert len(sources) == len(texts)\n"
        "    return sum(map(str.__eq__, texts, references)) / len(texts)\n"
    )
    monkeypatch.chdir(folder)
    task = Translation(metrics=("our_scores:exact",), judge="exact")
    found = tree(folder, 2)
    data = DataConfig.model_validate(found["data"])
    task.prepare(data, seed=0, base=None, say=lambda _text: None)
    evaluator = task.evaluator()
    evaluator.absorb((1.0, 1, [Translated(0, 2, "fire", "Feuer", "Feuer"), Translated(1, 2, "wood", "Hol", "Holz")]))
    assert evaluator.result()["exact"] == 0.5


def test_a_student_learns_from_what_its_teacher_translated(tmp_path: Path) -> None:
    """Sequence-level distillation (Kim and Rush 2016): one command, and one line of the student's recipe."""
    teacher = train(read_tree(tree(tmp_path, 30)), out=tmp_path / "teacher")
    predict(teacher, input=tmp_path / "train.jsonl", out=tmp_path / "taught.jsonl", column="de")
    written = lines(tmp_path / "taught.jsonl")
    assert [row["en"] for row in written] == [row["en"] for row in lines(tmp_path / "train.jsonl")]
    recipe = tree(tmp_path, 2)
    recipe["data"]["train"] = str(tmp_path / "taught.jsonl")
    student = train(read_tree(recipe), out=tmp_path / "student")
    assert json.loads((student / "summary.json").read_text())["status"] == "finished"
