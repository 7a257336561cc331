"""Playing: each episode depends on its seed and its driver alone, wherever and beside whatever it is played."""

from collections.abc import Sequence

import numpy as np
import pytest

from danlu.core.errors import RequestError, RunError
from danlu.data.episodes import Environment, Episode, planned_action, play

pytest.importorskip("gymnasium")
POLE = "CartPole-v1"


def lean(env: object) -> np.ndarray:
    """Pushes to the side to which the pole leans."""
    _, _, angle, speed = env.unwrapped.state  # type: ignore[attr-defined]
    return np.array([0.0, 1.0]) if angle + speed > 0 else np.array([1.0, 0.0])


def break_down(env: object) -> np.ndarray:
    raise ValueError("this planner is broken")


def _right(episodes: Sequence[Episode]) -> list[int]:
    return [1 for _ in episodes]


def test_an_episode_is_written_down_step_by_step() -> None:
    (episode,) = play(Environment(name=POLE, planner=lean), _right, [7])
    steps = len(episode.actions)
    assert steps == len(episode.observations) == len(episode.rewards) == len(episode.scores) < 15
    assert episode.total == steps
    row = episode.row()
    assert row["actions"] == [1] * steps
    assert np.array(row["observations"]).shape == (steps, 4)
    assert np.array(row["scores"]).shape == (steps, 2)


def test_processes_and_neighbours_change_nothing() -> None:
    made = Environment(name=POLE, planner=lean)
    alone = [play(made, _right, [seed], noise=0.3)[0].row() for seed in (3, 1, 2)]
    together = [episode.row() for episode in play(made, _right, [3, 1, 2], noise=0.3, processes=2)]
    assert together == alone


def test_the_planner_drives_as_often_as_it_is_asked() -> None:
    made = Environment(name=POLE, options={"max_episode_steps": 60}, planner=lean)
    assert play(made, planned_action, [0])[0].total == 60
    assert play(made, _right, [0], planned=1.0)[0].actions == play(made, planned_action, [0])[0].actions
    assert play(made, _right, [0], planned=0.8)[0].total > play(made, _right, [0])[0].total


def test_what_is_wrong_with_an_environment_is_told() -> None:
    with pytest.raises(RequestError, match="cannot be made"):
        play(Environment(name="NoSuchWorld-v0"), _right, [0])
    with pytest.raises(RequestError, match="not one of a finite set"):
        play(Environment(name="Pendulum-v1"), _right, [0])
    with pytest.raises(RunError, match="has ended"):
        play(Environment(name=POLE, planner=break_down), _right, [0, 1], processes=2)
