"""Decision, from a file of episodes to a run that plays; the world is gymnasium's CartPole."""

import json
from pathlib import Path

import pytest

from danlu.core.errors import DanluError, RequestError
from danlu.core.journal import read_journal
from danlu.data.episodes import Episode
from danlu.recipe.recipe import Recipe
from danlu.stages.collect import Collecting, collect
from danlu.stages.evaluate import evaluate
from danlu.stages.predict import predict
from danlu.stages.train import train
from danlu.tasks._playing import play_scores

pytest.importorskip("gymnasium")
pytest.importorskip("pygame")  # highway-env brings it; it draws
TASK = {"environment": "CartPole-v1", "environment_options": {"max_episode_steps": 80}}
PLANNED = {**TASK, "planner": "tests.data.test_episodes:lean", "processes": 1}


def _recipe(folder: Path, **task: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "pole",
            "task": {"kind": "decision", "actions": ["left", "right"], "num_samples": 0, **TASK, **task},
            "data": {"train": str(folder / "played.jsonl"), "valid": "20%", "context": 2, "cache": str(folder)},
            "model": {"design": {"family": "policy", "layers": 1, "width": 16, "heads": 2}},
            "train": {
                "budget": {"steps": 60},
                "batch": {"examples": 64},
                "optimizer": {"kind": "adamw", "lr": 1e-2},
                "evaluate_every": {"steps": 30},
            },
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decision")
    how = Collecting(episodes=12, noise=0.2)
    assert collect("planner", how, out=folder / "played.jsonl", options=PLANNED)["return"] > 40
    train(_recipe(folder, episodes=4, processes=1, judge="return", num_samples=1), out=folder / "run")
    return folder / "run"


def test_it_learns_to_hold_the_pole(run: Path) -> None:
    last = [record for record in read_journal(run / "journal.jsonl") if record["kind"] == "evaluation"][-1]
    assert last["metrics"]["return"] > 60  # a constant push ends after 10 steps
    assert last["metrics"]["accuracy"] > 0.85
    assert last["metrics"]["regret"] < 0.15
    assert [row[0] for row in last["tables"]["per_class"]["rows"]] == ["left", "right"]
    assert last["better"] == "higher"


def test_an_episode_is_filmed_before_and_after(run: Path) -> None:
    films = [record for record in read_journal(run / "journal.jsonl") if record["kind"] == "sample"]
    assert [record["step"] for record in films] == [0, 60]
    assert all(len(record["film"].split()) == len(record["film_steps"].split()) == 10 for record in films)
    assert films[0]["film"] != films[1]["film"]
    page = (run / "report.html").read_text()
    assert 'id="film-strip"' in page
    assert page.count("data:image/png;base64,") == 20


def test_the_policy_drives_and_the_planner_labels(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "driven.jsonl"
    options = {"planner": PLANNED["planner"], "processes": 1}
    found = collect(run, Collecting(episodes=3, seed=50), out=out, options=options)
    again = collect(run, Collecting(episodes=3, seed=50, labelled=False), options={"processes": 1})
    assert found == again
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["seed"] for row in rows] == [50, 51, 52]
    assert all(len(row["scores"]) == len(row["actions"]) == len(row["observations"]) for row in rows)
    assert evaluate(run, data=str(out))["accuracy"] > 0.8


def test_rows_with_a_past_are_answered(run: Path, tmp_path: Path) -> None:
    leaning = [[0.0, 0.0, side * 0.1, side * 0.3] for side in (-1, 1)]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"observations": [entry, entry]}) + "\n" for entry in leaning))
    assert predict(run, input=asked, out=tmp_path / "told.jsonl") == 2
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in told] == ["left", "right"]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4) for row in told)
    asked.write_text(json.dumps({"observations": [[1.0, 2.0]]}) + "\n")
    with pytest.raises(DanluError, match=r"row 1, field observations.*shape"):
        predict(run, input=asked, out=tmp_path / "none.jsonl")


def test_wrong_requests_are_told(tmp_path: Path, run: Path) -> None:
    data = run.parent / "played.jsonl"
    for task, said in (
        ({"judge": "return"}, "as long as no episode is played"),
        ({"environment": "NoSuchWorld-v0", "episodes": 1}, "cannot be made"),
    ):
        recipe = _recipe(run.parent, **task)
        with pytest.raises(RequestError, match=said):
            train(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for options, said in (({}, "no environment"), (TASK, "no planner"), ({**TASK, "planner": "x:y"}, "no module")):
        with pytest.raises(RequestError, match=said):
            collect("planner", Collecting(episodes=1), out=tmp_path / "o.jsonl", options=options)
    assert data.is_file()
    assert not (tmp_path / "o.jsonl").exists()


def test_playing_is_measured_with_intervals() -> None:
    crash = [{"crashed": 0.0, "speed": 20.0}, {"crashed": 1.0, "speed": 30.0}]
    calm = [{"crashed": 0.0, "speed": 20.0}]
    found = play_scores(
        [
            Episode(seed=0, actions=[0, 0], rewards=[1.0, 2.0], told=crash),
            Episode(seed=1, actions=[0], rewards=[5.0], told=calm),
        ]
    )
    assert (found["return"], found["crash_rate"], found["mean_speed"], found["steps"]) == (4.0, 0.5, 22.5, 1.5)
    assert found["return_low"] < 4.0 < found["return_high"]
    assert (found["crash_rate_low"], found["crash_rate_high"]) == pytest.approx((0.0945, 0.9055), abs=1e-4)
