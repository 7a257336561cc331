"""Study on a real tiny model: pairs, sharing, resuming, workers, failures, verdicts in words, the page."""

import json
import math
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
from danlu.stages.study import read_results, study
from danlu.stages.study.arms import AS_IT_IS, arms_of, runs_of
from danlu.stages.study.effects import change, in_words, verdict

RECIPE = """
name: tiny
task: text-generation
data: {train: words.txt, valid: 10%, context: 32, tokenizer: {train: bpe, size: 300}, cache: cache}
model: {design: {family: llama, layers: 1, width: 16, heads: 2}}
train:
  budget: {steps: 4}
  batch: {tokens: 128}
  micro_batch: 4
  precision: fp32
  optimizer: {kind: adamw, lr: 1.0e-2}
  log_every: {steps: 1}
  samples: false
techniques: {weight_decay: {l2: 0.1}, grad_clip: {norm: 1.0}}
study: {techniques: {dropout: {p: 0.9}, weight_decay: true}, seeds: 2}
"""


@pytest.fixture
def place(furnace: Path) -> Path:
    """The folder with a recipe besides."""
    (furnace / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return furnace


def read(*words: str) -> Recipe:
    return load_recipe("tiny.yaml", words)


def labels(recipe: Recipe, *names: str) -> list[tuple[str, str]]:
    """The pairs of the first seed: (without, with)."""
    return [(arm.pairs[0][0].label, arm.pairs[0][1].label) for arm in arms_of(recipe, names)]


def options(recipe: Recipe, name: str, *names: str) -> list[object]:
    """A technique's options in the runs without and with it."""
    arm = next(arm for arm in arms_of(recipe, names) if arm.technique.name() == name)
    runs = [[t.model_dump() for t in run.recipe.techniques if t.name() == name] for run in arm.pairs[0]]
    return [found[0] if found else None for found in runs]


def test_what_is_in_the_recipe_is_taken_out_and_what_is_not_is_added(place: Path) -> None:
    assert labels(read()) == [(AS_IT_IS, "with dropout"), ("without weight_decay", AS_IT_IS)]
    assert labels(read("study={seeds: 2}")) == [("without grad_clip", AS_IT_IS), ("without weight_decay", AS_IT_IS)]
    assert labels(read(), "ema", "grad-clip") == [(AS_IT_IS, "with ema"), ("without grad_clip", AS_IT_IS)]


def test_options_are_the_section_s_then_the_recipe_s_then_the_usual_ones(place: Path) -> None:
    assert options(read(), "dropout")[1]["p"] == 0.9
    assert options(read(), "weight_decay", "weight_decay") == [None, read().techniques[1].model_dump()]
    assert options(read("study.techniques.weight_decay={l2: 0.5}"), "weight_decay")[1]["l2"] == 0.5
    assert options(read("study={seeds: 2}"), "dropout", "dropout")[1]["p"] == 0.1


def test_equal_runs_are_done_once_in_turns_that_change_who_is_first(place: Path) -> None:
    runs = runs_of(arms_of(read("study.techniques.grad_clip={norm: 1.0}")))
    assert len(runs) == len({run.key for run in runs}) == 2 * 4, "the recipe as it is, and one more for each technique"
    assert [run.label for run in runs[:4]] == [run.label for run in (runs[7], *runs[4:7])]
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4


def test_a_key_holds_all_that_decides_how_a_run_ends(place: Path) -> None:
    keys = [run.key for run in runs_of(arms_of(read()))]
    assert [run.key for run in runs_of(arms_of(read("name=other", "track=[tensorboard]")))] == keys
    (place / "words.txt").write_text("something else\n" * 200, encoding="utf-8")
    assert not set(keys) & {run.key for run in runs_of(arms_of(read()))}


@pytest.mark.parametrize(
    ("words", "names", "said"),
    [
        ([], ["dropuot"], "Did you mean 'dropout'"),
        (["study.techniques.dropout.p=2"], [], r"study.techniques.dropout.p.*below 1"),
        (["study.seeds=1"], [], "study.seeds"),
        (["techniques={}", "study={seeds: 2}"], [], "no technique to measure"),
        (["data.train=nothing.txt"], [], "nothing.txt"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    place: Path, words: list[str], names: list[str], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        study(read(*words), techniques=names, out=Path("out"))
    assert not Path("out").exists()


def test_a_study_is_resumed_and_the_next_one_takes_its_runs(place: Path) -> None:
    heard: list[str] = []
    folder, stopped = study(read(), out=Path("all/one"), hear=lambda run, *_: heard.append(run.label))
    told = read_results(folder)
    assert stopped is None
    assert told["counts"] == {"finished": 6, "failed": 0, "waiting": 0, "reused": 0}
    assert heard.count(AS_IT_IS) == 2
    rows = {row["name"]: row for row in told["techniques"]}
    scores = {(run["seed"], run["label"]): run["score"] for run in told["runs"]}
    mean = sum(scores[seed, "with dropout"] - scores[seed, AS_IT_IS] for seed in (0, 1)) / 2
    assert rows["dropout"]["effects"]["loss"]["mean"] == pytest.approx(mean)
    assert mean > 0
    assert rows["dropout"]["speed"]["pairs"] == 2
    assert not rows["dropout"]["disturbed"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    for text in ("What was found", "All metrics", "All runs", rows["dropout"]["words"]):
        assert text in page
    assert "http" not in page.replace("http-equiv", "")

    run = folder / "runs" / told["runs"][2]["key"]
    (run / "summary.json").unlink()  # as if killed before its end was written
    again, _ = study(load_recipe(folder / "recipe.yaml"), out=folder, resume=True)
    assert [row["score"] for row in read_results(again)["runs"]] == [row["score"] for row in told["runs"]]

    other, _ = study(read(), techniques=["dropout", "ema"], out=Path("all/two"))
    told = read_results(other)
    assert told["counts"] == {"finished": 6, "failed": 0, "waiting": 0, "reused": 4}
    assert len(list((other / "runs").iterdir())) == 2, "only those with ema were done"
    assert {row["name"]: row["disturbed"] for row in told["techniques"]} == {"dropout": True, "ema": True}


def test_a_failed_run_is_recorded_and_done_again_on_resume(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.techniques.regularise.dropout import Dropout

    with monkeypatch.context() as broken:
        broken.setattr(Dropout, "on_model", lambda self, model: 1 / 0)
        folder, _ = study(read(), out=Path("out"))
    told = read_results(folder)
    assert told["counts"]["failed"] == 2
    rows = {row["name"]: row for row in told["techniques"]}
    assert rows["dropout"]["verdict"] == "fails"
    assert "2 of 2 runs with it failed" in rows["dropout"]["words"]
    assert "ZeroDivisionError" in rows["dropout"]["failed"]["with"][0]
    assert rows["weight_decay"]["effects"]["loss"]["pairs"] == 2
    study(read(), out=folder, resume=True)
    assert read_results(folder)["counts"] == {"finished": 6, "failed": 0, "waiting": 0, "reused": 0}


def test_nothing_finished_is_a_failure_in_words(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.techniques.regularise.grad_clip import GradClip
    from danlu.techniques.regularise.weight_decay import WeightDecay

    for broken in (GradClip, WeightDecay):
        monkeypatch.setattr(broken, "on_grads", lambda *_: 1 / 0)
    monkeypatch.setattr(GradClip, "start", lambda *_: 1 / 0)
    with pytest.raises(RunError, match="every run failed; the first: ZeroDivisionError"):
        study(read(), techniques=["dropout"], out=Path("out"))


def effect(**given: Any) -> dict[str, Any]:
    return {
        "mean": -0.031,
        "low": -0.039,
        "high": -0.023,
        "p": 0.001,
        "p_holm": 0.003,
        "smallest": 0.01,
        "pairs": 5,
    } | (given)


def row(**given: Any) -> dict[str, Any]:
    same = {"ratio": 1.0, "low": 0.99, "high": 1.01, "pairs": 5}
    made = {"effects": {"loss": effect()}, "speed": same, "memory": same, "steps": same, "disturbed": False}
    made |= {"failed": {"without": [], "with": []}, "pairs": [[]] * 5, **given}
    return {**made, "verdict": verdict(made, "loss", "lower")}


def test_verdicts_in_words() -> None:
    slower = {"ratio": 0.96, "low": 0.94, "high": 0.98, "pairs": 5}
    assert in_words(row(speed=slower), "loss") == "helps: −0.0310 ± 0.0080 loss, 4 % slower"
    assert in_words(row(speed=slower, disturbed=True), "loss") == "helps: −0.0310 ± 0.0080 loss"
    hurts = row(effects={"loss": effect(mean=0.031, low=0.023, high=0.039)}, steps={"ratio": 0.5, "low": 0, "high": 1})
    assert in_words(hurts, "loss") == "hurts: +0.0310 ± 0.0080 loss, 50 % fewer steps"
    unseen = row(effects={"loss": effect(p_holm=0.06)})
    assert in_words(unseen, "loss").startswith("no effect seen at this size: −0.0310 ± 0.0080 loss; one of 0.01 would")
    same = row(effects={"loss": effect(mean=0.0, low=0.0, high=0.0, p_holm=1.0, smallest=0.0)})
    assert in_words(same, "loss") == "no effect: every score is the same to the last bit"
    none = row(effects={"loss": effect(pairs=0, mean=math.nan)}, failed={"without": [], "with": ["x"] * 5})
    assert in_words(none, "loss") == "fails, 5 of 5 runs with it failed"
    assert verdict(row(), "loss", "higher") == "hurts"
    assert change(effect(mean=12.3, low=2.3, high=22.3)) == "+12 ± 10"


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "danlu", "study", "tiny.yaml", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy())


def wait_for(folder: Path, text: str) -> None:
    for _ in range(6000):
        if any(text in path.read_text(encoding="utf-8") for path in folder.glob("runs/*/journal.jsonl")):
            return
        time.sleep(0.01)
    raise TimeoutError(f"no journal in {folder} ever held {text!r}")


@pytest.mark.slow
def test_a_stopped_and_a_killed_study_go_on_as_if_nothing_had_been(place: Path) -> None:
    words = ["train.budget.steps=40", "train.checkpoint_every.steps=5", "--techniques", "dropout"]
    first = start(*words, "--out", "broken/one")
    wait_for(place / "broken/one", '"kind": "checkpoint"')
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 130, said
    assert "danlu study broken/one --resume" in said
    assert read_results(place / "broken/one")["counts"]["waiting"] > 0
    second = start(*words, "--out", "broken/one", "--resume")
    time.sleep(0.2)
    wait_for(place / "broken/one", '"kind": "end"')
    second.kill()
    second.communicate()
    study(load_recipe("broken/one/recipe.yaml"), out=Path("broken/one"), resume=True)
    whole, _ = study(read(*words[:2]), techniques=["dropout"], out=Path("whole/one"))
    told = [[run["score"] for run in read_results(place / f)["runs"]] for f in ("broken/one", whole)]
    assert told[0] == told[1]


@pytest.mark.slow
def test_two_workers_share_a_study(place: Path) -> None:
    folder, _ = study(read("study.workers=2"), out=Path("out"))
    told = read_results(folder)
    assert told["counts"] == {"finished": 6, "failed": 0, "waiting": 0, "reused": 0}
    assert all(row["disturbed"] for row in told["techniques"])


def test_the_command_prints_a_table_and_what_study_json_holds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from danlu.cli.main import main

    for more in ([], ["--json", "--resume"]):
        with pytest.raises(SystemExit) as ended:
            main(["study", "tiny.yaml", "--techniques", "dropout", "--out", "out", *more])
        assert ended.value.code == 0
    said = capsys.readouterr().out
    for text in ("run 1 of 4 · seed 0 · the recipe as it is · loss", "p (Holm)", "equal steps: each run has 4 steps"):
        assert text in said
    assert json.loads(said.splitlines()[-1])["techniques"][0]["name"] == "dropout"
