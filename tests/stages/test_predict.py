"""Predict: a line a row, in order, whole or not at all."""

import json

import pytest

from danlu.core.errors import DataError, RequestError
from danlu.data.config import DataConfig
from danlu.stages.predict import predict
from danlu.tasks.text_generation import TextGeneration

PROMPTS = [f"def function_{number}(" for number in range(20)]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": at, "prompt": text}) + "\n" for at, text in enumerate(PROMPTS)))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_row_is_answered_in_order_with_its_fields(tiny_model, rows, tmp_path):
    out = tmp_path / "out.jsonl"
    assert predict(tiny_model, input=rows, out=out, options={"max_tokens": 5, "logprob": True}) == 20
    made = read(out)
    assert [(row["id"], row["prompt"]) for row in made] == list(enumerate(PROMPTS))
    assert all(isinstance(row["prediction"], str) and row["finish"] in ("end", "length") for row in made)
    assert all(row["logprob"] < 0 for row in made)


def test_a_row_has_the_same_answer_alone(tiny_model, rows, tmp_path):
    options = {"max_tokens": 5, "temperature": 1.0, "seed": 3}
    predict(tiny_model, input=rows, out=tmp_path / "all.jsonl", options=options)
    (tmp_path / "one.jsonl").write_text(rows.read_text().splitlines()[0] + "\n")
    predict(tiny_model, input=tmp_path / "one.jsonl", out=tmp_path / "first.jsonl", options=options)
    assert read(tmp_path / "first.jsonl")[0] == read(tmp_path / "all.jsonl")[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": 7}', "row 21, field prompt"),
        ('{"id": 3}', "row 21, field prompt: is missing"),
        ("{nonsense", "row 21"),
        (
            json.dumps({"prompt": "long " * 200}),
            "row 21, field prompt: is .* tokens long, and the model's context holds",
        ),
        ('{"prompt": "x", "prediction": "y"}', "row 21, field prediction: has the name of a result"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_left(tiny_model, rows, tmp_path, line, message):
    rows.write_text(rows.read_text() + line + "\n")
    out = tmp_path / "out.jsonl"
    out.write_text("from before\n")
    with pytest.raises(DataError, match=message):
        predict(tiny_model, input=rows, out=out, options={"max_tokens": 1})
    assert out.read_text() == "from before\n"
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"rows.jsonl", "out.jsonl"}


def test_an_interrupted_prediction_leaves_nothing(tiny_model, rows, tmp_path, monkeypatch):
    whole = TextGeneration.predict

    def interrupted(self, model, tools, fields, options):
        yield next(iter(whole(self, model, tools, fields, options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(TextGeneration, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(tiny_model, input=rows, out=tmp_path / "out.jsonl", options={"max_tokens": 1})
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["rows.jsonl"]


def test_wrong_requests_are_told(tiny_model, rows, tmp_path):
    with pytest.raises(RequestError, match="Did you mean 'max_tokens'"):
        predict(tiny_model, input=rows, out=tmp_path / "out.jsonl", options={"max_token": 1})
    with pytest.raises(RequestError, match="mkdir"):
        predict(tiny_model, input=rows, out=tmp_path / "no" / "out.jsonl")
    with pytest.raises(RequestError, match="no such file"):
        predict(tiny_model, input=tmp_path / "no.jsonl", out=tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_without_a_prompt_is_told(tiny_model, tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("a,b\nx,y\n")
    with pytest.raises(DataError, match="no column for the text; its columns are a, b"):
        predict(tiny_model, input=path, out=tmp_path / "out.jsonl")


def test_a_student_trains_on_what_its_teacher_wrote_as_it_is(tiny_model, rows, tmp_path):
    """Sequence-level distillation: the answers stand under the name that the student's recipe knows."""
    taught = tmp_path / "taught.jsonl"
    rows.write_text("".join(json.dumps({"prompt": text, "response": "people's"}) + "\n" for text in PROMPTS))
    predict(tiny_model, input=rows, out=taught, options={"max_tokens": 5}, column="response")
    made = read(taught)
    assert all(row.keys() == {"prompt", "response", "finish"} and row["response"] != "people's" for row in made)
    tokenizer = {"from": str(tiny_model)}
    task = TextGeneration()
    data = DataConfig(train=str(taught), valid="20%", context=64, tokenizer=tokenizer, cache=str(tmp_path / "cache"))
    prepared = task.prepare(data, seed=0, base=None, say=lambda _: None)
    assert prepared.found["format"] == "prompt"
    row = prepared.train.pieces[0]
    answer = prepared.tools.decode(row["input_ids"][row["labels"] != -100], skip_special_tokens=True)
    assert any(answer and answer in one["response"] for one in made)
