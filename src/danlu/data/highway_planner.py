"""A scripted driver for highway-env that sees everything: it plays some plans ahead in its own small model of the road.

The own vehicle follows the simulator's equations (P-controlled speed and lane, kinematic bicycle). The others keep
their intended lanes and follow the Intelligent Driver Model (Treiber et al. 2000) with the simulator's constants; those
behind react to the own vehicle, those ahead do not. A plan is worth the rewards that the environment would give, less
what a crash, a short time to collision and each action other than `idle` cost.

Shapes: P plans, O other vehicles, T moments. Units: metres, seconds.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

SECONDS, MOMENTS = 0.2, 5
"""of a moment of the simulation (5 Hz); moments in a decision (1 Hz)"""
LENGTH, WIDTH, LANE = 5.0, 2.0, 4.0
TAU_SPEED, TAU_LATERAL, TAU_HEADING = 0.6, 0.6, 0.2
ACCELERATION, BRAKING, LARGEST, GAP, HEADWAY = 3.0, 5.0, 6.0, 10.0, 1.5
SLOWEST, SPEED_STEP, FASTEST_INDEX = 20.0, 5.0, 2
LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
FAR = 1e4
_BETA = float(np.arctan(np.tan(np.pi / 3) / 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HighwayPlanner:
    """`planner(env)` gives the worth of each of the five actions, (5,), by the best plan that begins with it."""

    decisions: int = 6
    """how far it looks ahead; the last ones of a plan are alike"""
    margin_along: float = 4.0
    """metres added to the length of a vehicle"""
    margin_across: float = 0.6
    """metres added to the width"""
    crash: float = 5.0
    """worth lost by a crash"""
    haste: float = 1.0
    """worth lost a second at a time to collision near 0, falling linearly to 0 at `calm_seconds`"""
    calm_seconds: float = 4.0
    action: float = 0.01
    """worth lost by an action other than idle"""
    sight: tuple[float, float] = (30.0, 100.0)
    """how far behind and ahead other vehicles count"""

    def __call__(self, env: Any) -> np.ndarray:
        world = env.unwrapped
        traffic = _traffic(world, self.sight)
        worth_P = self._worth(_plans(self.decisions), world, traffic)
        first_P = _plans(self.decisions)[:, 0]
        return np.array([worth_P[first_P == action].max() for action in range(5)], dtype=np.float32)

    def _worth(self, plans_PK: np.ndarray, world: Any, traffic: "Traffic") -> np.ndarray:
        own, lanes, num_plans = world.vehicle, world.config["lanes_count"], len(plans_PK)
        x, y, heading, speed = (
            np.full(num_plans, value, dtype=float) for value in (0.0, own.position[1], own.heading, own.speed)
        )
        lane, index = np.full(num_plans, own.target_lane_index[2]), np.full(num_plans, own.speed_index)
        behind = _Behind(traffic, num_plans)
        worth_P, whole_P = np.zeros(num_plans), np.ones(num_plans, dtype=bool)
        paths = traffic.ahead(self.decisions * MOMENTS)
        for decision, action_P in enumerate(plans_PK.T):
            near = np.clip(np.rint((speed - SLOWEST) / SPEED_STEP), 0, FASTEST_INDEX)
            index = np.where(action_P == FASTER, np.minimum(near + 1, FASTEST_INDEX), index)
            index = np.where(action_P == SLOWER, np.maximum(near - 1, 0), index)
            lane = np.clip(lane + (action_P == RIGHT) - (action_P == LEFT), 0, lanes - 1)
            for moment in range(decision * MOMENTS, (decision + 1) * MOMENTS):
                behind.step(x, y, speed, lane, paths.y_TO[moment])
                push = (SLOWEST + SPEED_STEP * index - speed) / TAU_SPEED
                x, y, heading, speed = _drive(x, y, heading, speed, lane * LANE, push)
                x_PO, speed_PO = behind.merged(paths.x_TO[moment], paths.speed_TO[moment])
                along_PO = x_PO - x[:, None]
                beside_PO = np.abs(paths.y_TO[moment] - y[:, None]) < WIDTH + self.margin_across
                hit_P = (beside_PO & (np.abs(along_PO) < LENGTH + self.margin_along)).any(1)
                worth_P -= self.crash * (hit_P & whole_P) * (1.0 if decision < 3 else 0.6)
                whole_P &= ~hit_P
                closing_PO = speed[:, None] - speed_PO
                chasing_PO = beside_PO & (along_PO > LENGTH) & (closing_PO > 0.1)
                left_PO = np.where(chasing_PO, (along_PO - LENGTH - 1) / np.maximum(closing_PO, 0.1), FAR)
                soon_P = np.clip(1 - left_PO.min(1, initial=FAR) / self.calm_seconds, 0, 1)
                worth_P -= self.haste * SECONDS * soon_P * whole_P
            worth_P += whole_P * _reward(world.config, speed * np.cos(heading), lane)
            worth_P -= self.action * (action_P != IDLE)
        return worth_P


class Paths(NamedTuple):
    """Where the others will be, (T, O) each."""

    x_TO: np.ndarray
    y_TO: np.ndarray
    speed_TO: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
    """The others from back to front, (O,) each; x counts from the own vehicle, `leader_O` is -1 for none."""

    x_O: np.ndarray
    y_O: np.ndarray
    heading_O: np.ndarray
    speed_O: np.ndarray
    lane_O: np.ndarray
    wanted_O: np.ndarray
    leader_O: np.ndarray

    def ahead(self, num_moments: int) -> Paths:
        """Their paths as if the own vehicle were not there."""
        x, y, heading, speed = self.x_O, self.y_O, self.heading_O, self.speed_O
        has, leader = self.leader_O >= 0, self.leader_O
        found = []
        for _ in range(num_moments):
            push = follow(
                speed, self.wanted_O, np.where(has, x[leader] - x, FAR), np.where(has, speed - speed[leader], 0)
            )
            x, y, heading, speed = _drive(x, y, heading, speed, self.lane_O * LANE, push)
            found.append((x, y, speed))
        return Paths(*(np.stack(part) for part in zip(*found, strict=True)))


class _Behind:
    """The vehicles that start behind: they brake for the own vehicle, differently in each plan."""

    def __init__(self, traffic: Traffic, num_plans: int) -> None:
        self.places = np.flatnonzero(traffic.x_O < 0)
        self.lane, self.wanted = traffic.lane_O[self.places], traffic.wanted_O[self.places]
        self.x = np.tile(traffic.x_O[self.places], (num_plans, 1))
        self.speed = np.tile(traffic.speed_O[self.places], (num_plans, 1))

    def step(self, x: np.ndarray, y: np.ndarray, speed: np.ndarray, lane: np.ndarray, y_O: np.ndarray) -> None:
        before = (np.abs(y[:, None] - y_O[self.places]) < WIDTH + 0.4) | (lane[:, None] == self.lane)
        free = follow(self.speed, self.wanted, FAR, 0.0)
        held = follow(self.speed, self.wanted, x[:, None] - self.x, self.speed - speed[:, None])
        self.x = self.x + self.speed * SECONDS
        self.speed = self.speed + np.where(before, np.minimum(free, held), free) * SECONDS

    def merged(self, x_O: np.ndarray, speed_O: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P, O) places and speeds of all the others."""
        x_PO, speed_PO = (np.tile(part, (len(self.x), 1)) for part in (x_O, speed_O))
        x_PO[:, self.places], speed_PO[:, self.places] = self.x, self.speed
        return x_PO, speed_PO


def follow(speed: np.ndarray, wanted: np.ndarray, gap: Any, closing: Any) -> np.ndarray:
    """The Intelligent Driver Model's acceleration behind a vehicle `gap` ahead that comes nearer at `closing`."""
    desired = GAP + speed * HEADWAY + speed * closing / (2 * np.sqrt(ACCELERATION * BRAKING))
    free = 1 - (np.maximum(speed, 0) / wanted) ** 4
    return np.clip(ACCELERATION * (free - (desired / np.maximum(gap, 1e-2)) ** 2), -LARGEST, LARGEST)


def _drive(x: Any, y: Any, heading: Any, speed: Any, aim: Any, push: Any) -> tuple[np.ndarray, ...]:
    """A moment later: towards the middle `aim` of a lane with the acceleration `push`."""
    some = np.maximum(speed, 1e-2)
    wanted = np.clip(np.arcsin(np.clip((aim - y) / TAU_LATERAL / some, -1, 1)), -np.pi / 4, np.pi / 4)
    slip = np.arcsin(np.clip(LENGTH / 2 / some * (wanted - heading) / TAU_HEADING, -1, 1))
    slip = np.clip(slip, -_BETA, _BETA)
    course = heading + slip
    return (
        x + speed * np.cos(course) * SECONDS,
        y + speed * np.sin(course) * SECONDS,
        heading + speed * np.sin(slip) / (LENGTH / 2) * SECONDS,
        speed + push * SECONDS,
    )


def _reward(config: Any, speed: np.ndarray, lane: np.ndarray) -> np.ndarray:
    """The environment's reward of a decision without a crash."""
    low, high = config["reward_speed_range"]
    most = config["high_speed_reward"] + config["right_lane_reward"]
    gained = config["high_speed_reward"] * np.clip((speed - low) / (high - low), 0, 1)
    gained = gained + config["right_lane_reward"] * lane / max(config["lanes_count"] - 1, 1)
    crash = config["collision_reward"]
    return np.asarray((gained - crash) / (most - crash) if config["normalize_reward"] else gained)


def _traffic(world: Any, sight: tuple[float, float]) -> Traffic:
    own = world.vehicle
    here = own.position[0]
    others = [
        other for other in world.road.vehicles if other is not own and -sight[0] < other.position[0] - here < sight[1]
    ]
    others.sort(key=lambda other: other.position[0])
    rows = [
        (*other.position, other.heading, other.speed, other.target_lane_index[2], min(other.target_speed, 30.0))
        for other in others
    ]
    x, y, heading, speed, lane, wanted = np.array(rows, dtype=float).reshape(-1, 6).T
    share = (lane[:, None] == lane) | (np.abs(y[:, None] - y) < WIDTH)  # (O, O): one may run into the other
    before = share & (np.arange(len(x)) > np.arange(len(x))[:, None])
    leader = np.where(before.any(1), before.argmax(1), -1) if len(x) else np.empty(0, dtype=int)
    return Traffic(x_O=x - here, y_O=y, heading_O=heading, speed_O=speed, lane_O=lane, wanted_O=wanted, leader_O=leader)


@functools.cache
def _plans(decisions: int) -> np.ndarray:
    """(P, K): two free actions, a change of speed or none, then the same to the end."""
    chosen = itertools.product(range(5), range(5), (IDLE, FASTER, SLOWER), (IDLE, SLOWER))
    return np.array([(first, second, third) + (rest,) * (decisions - 3) for first, second, third, rest in chosen])


highway_planner = HighwayPlanner()
"""for `task.planner: danlu.data.highway_planner:highway_planner`"""
