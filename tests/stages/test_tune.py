"""Tune on a real tiny model: spaces, resuming, workers, pruning, the best recipe's score, the page."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import RequestError, RunError
from danlu.recipe.load import load_recipe
from danlu.recipe.recipe import Recipe
from danlu.recipe.resolved import given_tree
from danlu.stages.tune.space import check_space, recipe_with

optuna = pytest.importorskip("optuna")

RECIPE = """
name: tiny
task: text-generation
data: {train: words.txt, valid: 10%, context: 32, tokenizer: {train: bpe, size: 300}, cache: cache}
model: {design: {family: llama, layers: 1, width: 16, heads: 2}}
train:
  budget: {steps: 8}
  batch: {tokens: 128}
  micro_batch: 4
  precision: fp32
  optimizer: {kind: adamw, lr: 3.0e-3}
  evaluate_every: {steps: 2}
  log_every: {steps: 1}
  samples: false
tune: {space: {train.optimizer.lr: log(1e-5, 1e-2), techniques.dropout.p: (0, 0.5)}, trials: 2}
"""


@pytest.fixture
def place(furnace: Path) -> Path:
    """The folder with a recipe besides."""
    (furnace / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return furnace


def read(*words: str) -> Recipe:
    return load_recipe("tiny.yaml", words)


def results(folder: Path | str) -> dict[str, Any]:
    return json.loads((Path(folder) / "tune.json").read_text(encoding="utf-8"))


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "danlu", "tune", "tiny.yaml", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy())


def wait_for(path: Path, text: str) -> None:
    for _ in range(6000):
        if path.exists() and text in path.read_text(encoding="utf-8"):
            return
        time.sleep(0.01)
    raise TimeoutError(f"{path} never held {text!r}")


def test_the_issue_s_own_space_reads_as_meant(place: Path) -> None:
    space = "{train.optimizer.lr: log(1e-5, 1e-2), model.design.layers: [2, 4, 6], techniques.dropout.p: (0, 0.5)}"
    for word in (f"tune={{space: {space}}}", f"tune.space={space}"):
        tune = read(word).tune
        assert tune is not None
        written = {key: axis.written() for key, axis in tune.space.items()}
        assert written["train.optimizer.lr"] == "log(1e-05, 0.01)"
        assert written["model.design.layers"] == [2, 4, 6]
        assert written["techniques.dropout.p"] == "(0, 0.5)"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("tune.space.train.x=(2, 1)", "its first end must be below its second"),
        ("tune.space.train.x=log(0, 1)", "must begin above zero"),
        ("tune.space.train.x=[3]", "at least two values"),
        ("tune.space.train.x=3", "no range and no list"),
        ("tune.sampler=grid", "a grid needs them"),
        ("tune.samplr=grid", "Did you mean 'sampler'"),
        ("tune={space: {a: [1, 2]}, pruner: asha, objectives: [loss, parameters]}", "one objective only"),
    ],
)
def test_a_wrong_section_is_refused_in_words(place: Path, word: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read(word)


@pytest.mark.parametrize(
    ("key", "axis", "said"),
    [
        ("train.optimizer.lrr", "(0, 1)", "tune.space, train.optimizer.lrr=0: .*Did you mean 'lr'"),
        ("techniques.dropout.p", "(0, 1.5)", "tune.space, techniques.dropout.p=1.5: .*below 1"),
        ("train.optimizer.kind", "[adamw, lyon]", "lyon"),
        ("model.design.layer", "[2, 3]", "there is no such key. Did you mean 'layers'"),
    ],
)
def test_both_ends_are_checked_before_anything_starts(place: Path, key: str, axis: str, said: str) -> None:
    from danlu.stages.tune import tune

    with pytest.raises(RequestError, match=said):
        tune(read(f"tune.space={{{key}: {axis}}}"), out=Path("out"))
    assert not Path("out").exists()


def test_values_that_fit_only_with_others_are_allowed(place: Path) -> None:
    recipe = read("tune.space={train.optimizer.kind: [adamw, sgd], train.optimizer.momentum: (0, 0.9)}")
    assert recipe.tune is not None
    check_space(given_tree(recipe), recipe.tune.space, seed=0)


def test_a_key_of_one_optimizer_does_not_hinder_another(place: Path) -> None:
    made = recipe_with(given_tree(read()), {"train.optimizer.kind": "sgd", "model.design.layers": 2})
    assert made.train.optimizer.kind == "sgd"
    assert made.tune is None


def test_a_search_ends_with_a_recipe_that_gives_the_same_score(place: Path) -> None:
    from danlu.stages.train import train
    from danlu.stages.tune import tune

    heard = []
    space = "{model.design.width: [16, 17, 32], train.optimizer.kind: [adamw, sgd]}"
    asked = read(f"tune={{space: {space}, sampler: grid, objectives: [loss, parameters]}}")
    folder, stopped = tune(asked, out=Path("out"), hear=lambda _search, trial: heard.append(trial.number))
    told = results(folder)
    assert stopped is None
    assert heard == list(range(6))
    states = {trial["values"]["model.design.width"]: trial["state"] for trial in told["trials"]}
    assert states == {16: "finished", 17: "failed", 32: "finished"}, (
        "a width that its heads do not divide fails, and is not fatal"
    )
    best = told["trials"][told["best"]]
    again = train(load_recipe(folder / "best.yaml"), out=Path("again"))
    summary = json.loads((again / "summary.json").read_text(encoding="utf-8"))
    assert summary["metrics"]["best"]["loss"] == best["scores"]["loss"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    for title in ("What was found", "Trial by trial", "The Pareto front", "All trials"):
        assert title in page
    assert "http" not in page.replace("http-equiv", "")
    assert len(list(Path("cache/tokenizers").glob("*/tokenizer.json"))) == 1, "the trials share their tokenizer"
    assert len(list(Path("cache/examples").glob("*/meta.json"))) == 2, "and their examples: train and valid"


@pytest.mark.parametrize("sampler", ["random", "gp", "cmaes", "grid"])
def test_every_sampler_searches(place: Path, sampler: str) -> None:
    from danlu.stages.tune import tune

    space = "tune.space={model.design.layers: (1, 2), techniques.dropout: [true, false]}"
    folder, _ = tune(read(space, f"tune.sampler={sampler}", "tune.trials=4", "train.budget.steps=1"), out=Path("out"))
    told = results(folder)
    assert told["counts"]["finished"] == 4
    rows = {(trial["values"]["model.design.layers"], trial["values"]["techniques.dropout"]) for trial in told["trials"]}
    assert sampler != "grid" or len(rows) == 4


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_hopeless_trials_are_pruned_in_words(place: Path, pruner: str) -> None:
    from danlu.stages.tune import tune

    # from good to bad, so that what comes later has something to be compared with
    words = ["tune.space={train.optimizer.lr: [2.0e-2, 1.0e-2, 5.0e-3, 1.0e-5, 1.0e-6, 1.0e-7]}", "tune.trials=7"]
    folder, _ = tune(read(*words, "tune.sampler=random", f"tune.pruner={pruner}"), out=Path("out"))
    pruned = [trial for trial in results(folder)["trials"] if trial["state"] == "pruned"]
    assert pruned
    for trial in pruned:
        summary = json.loads((folder / trial["run"] / "summary.json").read_text(encoding="utf-8"))
        assert summary["status"] == "stopped"
        assert summary["reason"].startswith("pruned: loss")
        assert summary["steps"] < 8


@pytest.mark.slow
def test_a_stopped_and_a_killed_search_go_on_as_if_nothing_had_been(place: Path) -> None:
    from danlu.stages.tune import tune

    words = [
        "tune.trials=2",
        "train.budget.steps=40",
        "train.evaluate_every.steps=10",
        "train.checkpoint_every.steps=5",
    ]
    whole, _ = tune(read(*words), out=Path("whole"))
    first = start(*words, "--out", "broken")
    wait_for(place / "broken/trials/0/journal.jsonl", '"kind": "checkpoint"')
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 130, said
    assert "danlu tune broken --resume" in said
    assert results("broken")["counts"]["running"] == 1
    second = start(*words, "--out", "broken", "--resume")
    wait_for(place / "broken/trials/1/journal.jsonl", '"kind": "checkpoint"')
    second.kill()
    second.communicate()
    folder, _ = tune(load_recipe("broken/recipe.yaml"), out=Path("broken"), resume=True)
    for one, other in zip(results(whole)["trials"], results(folder)["trials"], strict=True):
        assert one["values"] == other["values"]
        assert one["scores"] == other["scores"]
    with pytest.raises(RequestError, match="begun with another space"):
        tune(read(*words, "tune.space={model.design.layers: [1, 2]}"), out=Path("broken"), resume=True)


@pytest.mark.slow
def test_two_workers_share_a_study(place: Path) -> None:
    from danlu.stages.tune import tune

    folder, _ = tune(read("tune.trials=3", "tune.workers=2"), out=Path("out"))
    told = results(folder)
    assert told["counts"] == {"finished": 3, "pruned": 0, "failed": 0, "running": 0}
    assert [trial["number"] for trial in told["trials"]] == [0, 1, 2]


def test_nothing_finished_is_a_failure_in_words(place: Path) -> None:
    from danlu.stages.tune import tune

    with pytest.raises(RunError, match=r"no trial finished .2 failed.; trial 0: .*no accuracy"):
        tune(read("tune.objectives=accuracy"), out=Path("out"))


def test_a_missing_library_is_named_with_its_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.stages.tune import tune

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RequestError, match=r"pip install 'danlu\[tune\]'"):
        tune(read(), out=Path("out"))
    assert not Path("out").exists()
