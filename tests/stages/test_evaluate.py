"""Evaluate: the metrics are those of a plain loop over the texts, wherever the model comes from."""

import json
import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from danlu.core.errors import DataError, RequestError
from danlu.core.journal import Journal
from danlu.stages.evaluate import evaluate
from danlu.tasks.text_generation import TextEvaluator

TEXTS = ["def push(self, item):\n    pass", "class Queue:\n    pass\n", "x = 1"]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(path)


def by_hand(folder):
    """Loss and bits per byte, one text at a time, between the tokenizer's own begin and end tokens."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    nats = tokens = num_bytes = 0
    for text in TEXTS:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            nats += float(model(torch.tensor([ids]), labels=torch.tensor([ids])).loss) * (len(ids) - 1)
        tokens += len(ids) - 1
        num_bytes += len(text.encode())
    return nats / tokens, nats / math.log(2) / num_bytes


def test_metrics_equal_a_plain_loop(tiny_model, data, tmp_path):
    metrics = evaluate(tiny_model, data=data, out=tmp_path / "metrics.json")
    loss, bits = by_hand(tiny_model)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert metrics["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == metrics


def test_an_interrupted_evaluation_leaves_nothing(tiny_model, data, tmp_path, monkeypatch):
    out = tmp_path / "metrics.json"
    evaluate(tiny_model, data=data, out=out)
    before = out.read_text()

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(TextEvaluator, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_model, data=data, out=out)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_model, data=data, out=tmp_path / "new.json")
    assert out.read_text() == before
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"texts.jsonl", "metrics.json"}


def test_the_size_of_batches_does_not_matter(tiny_model, data):
    assert evaluate(tiny_model, data=data, batch_tokens=1)["loss"] == pytest.approx(
        evaluate(tiny_model, data=data, batch_tokens=10_000)["loss"], rel=1e-5
    )


def test_a_run_stands_for_its_model(tiny_model, data, tmp_path):
    Journal(tmp_path / "1" / "journal.jsonl").close()
    with pytest.raises(RequestError, match="has written no model yet"):
        evaluate(tmp_path / "1", data=data)
    shutil.copytree(tiny_model, tmp_path / "1" / "model")
    assert evaluate(tmp_path / "1", data=data) == evaluate(tiny_model, data=data)


def test_a_folder_that_danlu_did_not_write_is_a_language_model(tiny_model, data, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "plain", ignore=shutil.ignore_patterns("danlu.json"))
    metrics = evaluate(tmp_path / "plain", data=data, overrides={"format": "text", "cache": str(tmp_path / "cache")})
    assert metrics["loss"] == pytest.approx(by_hand(tiny_model)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data": "nowhere.jsonl"}, "no such file"),
        ({"model": "nowhere/at/all"}, "no folder"),
        ({"task": "text-generatoin"}, "Did you mean 'text_generation'"),
        ({"overrides": {"contxt": 3}}, "Did you mean 'context'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(tiny_model, data, tmp_path, wrong, message):
    out = tmp_path / "metrics.json"
    asked = {"model": tiny_model, "data": data, **wrong}
    with pytest.raises(RequestError, match=message):
        evaluate(asked.pop("model"), out=out, **asked)
    assert not out.exists()


def test_a_bad_row_is_named(tiny_model, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "good"}\n{"text": 7}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, row 2, field text"):
        evaluate(tiny_model, data=str(path))


def test_a_folder_that_is_not_there_is_told_before_the_work(tiny_model, data, tmp_path):
    with pytest.raises(RequestError, match="mkdir"):
        evaluate(tiny_model, data=data, out=tmp_path / "no" / "metrics.json")
