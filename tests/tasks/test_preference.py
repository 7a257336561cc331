"""Preference: a run from train to predict with a frozen copy and beside an adapter, resumed, and judged elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from danlu.core.errors import RequestError
from danlu.core.journal import read_journal
from danlu.recipe.load import read_tree
from danlu.stages.evaluate import evaluate
from danlu.stages.predict import predict
from danlu.stages.train import train
from danlu.train.interrupts import Interrupts
from tests.conformance.cases.aligned import preference_rows, write_base

from .conftest import Row

Write = Callable[[str, list[Row]], str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


def tree(train: str, base: str, adapter: dict[str, Any] | None = None, **task: Any) -> Any:
    model: dict[str, Any] = {"from": base} | ({"adapter": adapter} if adapter else {})
    return {
        "name": "tiny",
        "task": {"kind": "preference", "beta": 0.5, "num_samples": 1, **task},
        "data": {"train": train, "valid": "25%", "context": 48},
        "model": model,
        "train": {
            "budget": {"steps": 12},
            "batch": {"examples": 16},
            "micro_batch": 8,
            "optimizer": {"kind": "adamw", "lr": 1e-2 if adapter else 3e-3},
            "log_every": {"steps": 1},
            "checkpoint_every": {"steps": 5},
            "samples": False,
        },
        "techniques": {"dropout": {"p": 0.1}} if adapter is None else {},
        "control": "off",
    }


def readings(folder: Path, name: str) -> list[float]:
    return [record["values"][name] for record in read_journal(folder / "journal.jsonl") if record["kind"] == "reading"]


@pytest.mark.parametrize("adapter", [None, {"kind": "lora", "r": 4}], ids=["copy", "adapter"])
def test_held_out_pairs_are_told_apart_and_the_reference_stays(
    adapter: dict[str, Any] | None, base: str, write: Write, tmp_path: Path
) -> None:
    path = write("pairs.jsonl", preference_rows(120))
    run = train(read_tree(tree(path, base, adapter)), out=tmp_path / "run")
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert metrics["last"]["reward_accuracy"] > 0.9
    assert metrics["last"]["reward_margin"] > 0.1
    first = readings(run, "reward_margin")[0]
    if adapter is not None:  # no dropout: the policy starts as its reference, to the bit
        assert first == 0.0
        assert readings(run, "reward_accuracy")[0] == 0.5
        assert readings(run, "loss")[0] == pytest.approx(0.6931, abs=1e-4)
    notes = json.loads((run / "model" / "danlu.json").read_text())
    assert notes["task"]["reference"] == base
    judged = evaluate(run, data=path)
    assert judged["reward_accuracy"] > 0.9
    model, start = (AutoModelForCausalLM.from_pretrained(place) for place in (run / "model", base))
    assert not torch.equal(model.lm_head.weight, start.lm_head.weight) or adapter is not None
    asked = write("asked.jsonl", [{"prompt": "wood fire"}, {"prompt": "steady"}])
    assert predict(run, input=asked, out=tmp_path / "out.jsonl", options={"max_tokens": 3}) == 2
    assert "prediction" in json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("adapter", [None, {"kind": "lora", "r": 4}], ids=["copy", "adapter"])
def test_a_resumed_run_is_the_same_to_the_bit(
    adapter: dict[str, Any] | None, base: str, write: Write, tmp_path: Path
) -> None:
    recipe = read_tree(tree(write("pairs.jsonl", preference_rows()), base, adapter))
    whole = train(recipe, out=tmp_path / "whole")
    stopper = Interrupts()

    def stop(record: dict[str, Any]) -> None:
        if record["kind"] == "reading" and record["step"] == 7:
            stopper.ask("enough")

    train(recipe, out=tmp_path / "parts", listeners=[stop], interrupts=stopper)
    parts = train(recipe, out=tmp_path / "parts", resume=True)
    assert readings(parts, "loss")[-4:] == readings(whole, "loss")[-4:]
    one, two = ((run / "model").glob("*.safetensors") for run in (whole, parts))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


def test_what_cannot_be_is_refused(base: str, write: Write, tmp_path: Path) -> None:
    path = write("pairs.jsonl", preference_rows())
    new = tree(path, base)
    new["model"] = {"design": {"family": "llama", "layers": 1, "width": 16, "heads": 2}}
    with pytest.raises(RequestError, match="DPO compares with a trained model, and this one is new"):
        train(read_tree(new), out=tmp_path / "run")
    with pytest.raises(RequestError, match="no metric 'accuracy'"):
        train(read_tree(tree(path, base, judge="accuracy")), out=tmp_path / "run")
    with pytest.raises(RequestError, match="label_smoothing belongs to objective: dpo"):
        read_tree(tree(path, base, objective="ipo", label_smoothing=0.1))
    assert not (tmp_path / "run").exists()
    run = train(read_tree(tree(path, base, {"kind": "lora", "r": 2})), out=tmp_path / "run")
    with pytest.raises(RequestError, match="the reference model cannot be loaded"):
        evaluate(run, data=path, overrides={"task.reference": str(tmp_path / "gone")})
