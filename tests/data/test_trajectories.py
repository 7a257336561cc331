"""Episodes become steps with their past; what cannot be used is told with its field."""

import json
from pathlib import Path

import numpy as np
import pytest

from danlu.core.errors import DanluError
from danlu.data.cache import encode_cached
from danlu.data.sources import open_source
from danlu.data.trajectories import Steps, TrajectoryEncoder, measure, trajectory_columns

COLUMNS = {name: name for name in ("observations", "actions", "rewards")}


def _encoder(**more: object) -> TrajectoryEncoder:
    options: dict[str, object] = {"columns": COLUMNS, "shape": (2, 2), "num_actions": 3, **more}
    return TrajectoryEncoder(**options)  # type: ignore[arg-type]


def _episode(steps: int, first: float = 0.0) -> dict[str, object]:
    return {
        "observations": [[[first + at, 1.0], [0.0, 0.0]] for at in range(steps)],
        "actions": [at % 3 for at in range(steps)],
        "rewards": [1.0] * steps,
    }


def _steps(folder: Path, context: int) -> Steps:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (_episode(4, 10.0), _episode(2, 20.0))))
    episodes = encode_cached(open_source(str(path), cache=folder), _encoder(), key="test")
    return Steps(episodes, context)


def test_a_step_sees_its_past_and_not_the_episode_before(tmp_path: Path) -> None:
    steps = _steps(tmp_path, 3)
    assert (len(steps), steps.lengths.tolist()) == (6, [1, 2, 3, 3, 1, 2])
    fourth, fifth = steps[3], steps[4]
    assert fourth["observations"][:, 0, 0].tolist() == [11.0, 12.0, 13.0]
    assert fourth["past_actions"].tolist() == [0, 1, 2]
    assert fourth["returns"].tolist() == [3.0, 2.0, 1.0]
    assert int(fourth["target"]) == 0
    assert fifth["observations"][:, 0, 0].tolist() == [20.0]
    assert fifth["past_actions"].tolist() == [-1]


def test_features_are_measured_over_the_objects_that_are_there(tmp_path: Path) -> None:
    found = measure(_steps(tmp_path, 1).episodes)
    assert found.shift_2F[0, 0] == pytest.approx(np.mean([10, 11, 12, 13, 20, 21]))
    assert found.scale_2F[0, 0] == pytest.approx(1 / np.std([10, 11, 12, 13, 20, 21]))
    assert found.scale_2F[0, 1] == 0.0  # it never varies
    assert (found.num_actions, found.largest_return) == (3, 4.0)


def test_scores_win_over_the_actions_and_labels_over_scores() -> None:
    row = {**_episode(2), "scores": [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], "labels": [1, 1]}
    scored = _encoder(columns={**COLUMNS, "scores": "scores"})
    labelled = _encoder(columns={**COLUMNS, "scores": "scores", "labels": "labels"})
    assert [entry.one(row)["targets"].tolist() for entry in (_encoder(), scored, labelled)] == [[0, 1], [2, 0], [1, 1]]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("observations", [[[1.0, 2.0]]], "shape"),
        ("observations", [[["a", 2.0], [1.0, 1.0]]], "not numbers"),
        ("observations", [[[float("nan"), 2.0], [1.0, 1.0]]], "not finite"),
        ("observations", [], "no list of observations"),
        ("actions", [0, 3], "holds the action 3; actions are 0 to 2"),
        ("actions", [0, 0.5], "holds the action 0.5"),
        ("actions", [0], "holds 1 steps, the observations 2"),
        ("rewards", None, "is missing"),
    ],
)
def test_a_bad_field_is_told(tmp_path: Path, field: str, value: object, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    rows = (_episode(2), {**_episode(2), field: value})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DanluError, match=rf"rows.jsonl, row 2, field {field}.*{said}"):
        encode_cached(open_source(str(path), cache=tmp_path), _encoder(), key="test")


def test_columns_of_other_names_are_told_or_guessed() -> None:
    row = {"obs": [], "action": [], "gain": []}
    found = trajectory_columns(row, told={"rewards": "gain"}, where="here")
    assert found.by_role == {"observations": "obs", "actions": "action", "rewards": "gain"}
    with pytest.raises(DanluError, match="no column for 'actions'"):
        trajectory_columns({"obs": []}, told={}, where="here")
