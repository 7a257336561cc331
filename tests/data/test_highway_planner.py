"""The planner's own road: it knows what the simulator will do, avoids what lies ahead, and takes a free road fast."""

import numpy as np
import pytest

from danlu.data.episodes import Environment
from danlu.data.highway import ENVIRONMENT
from danlu.data.highway_planner import FASTER, IDLE, MOMENTS, SLOWER, _drive, _traffic, highway_planner

pytest.importorskip("highway_env")


def _world(seed: int = 0) -> object:
    env = Environment(name=ENVIRONMENT).make()
    env.reset(seed=seed)
    return env


def test_a_lane_change_goes_as_in_the_simulator() -> None:
    env = _world()
    own = env.unwrapped.vehicle
    aim = 4.0 if own.target_lane_index[2] != 1 else 8.0
    action = 2 if aim > own.position[1] else 0
    x, y, heading, speed = (float(entry) for entry in (*own.position, own.heading, own.speed))
    for _ in range(MOMENTS):
        x, y, heading, speed = _drive(x, y, heading, speed, aim, (own.target_speed - speed) / 0.6)
    env.step(action)
    assert np.allclose((x, y, heading, speed), (*own.position, own.heading, own.speed), atol=1e-6)


def test_others_go_about_as_foretold_for_two_seconds() -> None:
    env = _world(3)
    world, before = env.unwrapped, env.unwrapped.vehicle.position[0]
    paths = _traffic(world, (0.0, 100.0)).ahead(2 * MOMENTS)
    ahead = [other for other in world.road.vehicles if 0 <= other.position[0] - before < 100]
    ahead = sorted((other for other in ahead if other is not world.vehicle), key=lambda other: other.position[0])
    env.step(IDLE)
    env.step(IDLE)
    errors = np.abs(paths.x_TO[-1] + before - [other.position[0] for other in ahead])
    assert errors[:2].max() < 1.0  # of about 40 metres; farther on, one whose leader is out of sight is not foreseen


def test_a_wall_of_cars_is_braked_for_and_a_free_road_taken() -> None:
    env = _world()
    world = env.unwrapped
    own = world.vehicle
    others = [other for other in world.road.vehicles if other is not own]
    for at, other in enumerate(others):
        lane = at % 3
        other.position = np.array([own.position[0] + 28.0 + 12 * (at // 3), 4.0 * lane])
        other.speed, other.heading, other.target_speed = 20.0, 0.0, 20.0
        other.target_lane_index = (*other.target_lane_index[:2], lane)
    assert highway_planner(env).argmax() == SLOWER
    world.road.vehicles = [own]
    own.target_lane_index = (*own.target_lane_index[:2], 2)
    assert highway_planner(env).argmax() == FASTER


@pytest.mark.slow
def test_it_drives_well() -> None:
    from danlu.data.episodes import planned_action, play
    from danlu.tasks._playing import play_scores

    found = play_scores(play(Environment(name=ENVIRONMENT, planner=highway_planner), planned_action, range(100)))
    assert found["return"] > 23
    assert found["crash_rate"] <= 0.02
