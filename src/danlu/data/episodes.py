"""Episodes: a gymnasium environment is played, many at a time, in processes of their own."""

import contextlib
import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self, cast

import numpy as np

from danlu.core.errors import RequestError, RunError
from danlu.core.extras import need

Planner = Callable[[Any], np.ndarray]
"""from the environment, in all its inner state, to the worth of each action, (A,)"""
TOLD = ("crashed", "is_success", "success", "speed")
"""what is kept of what an environment says of a step"""
_NOISE = 1  # names the stream of random numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """How an environment is made: a gymnasium id, with `module:` before it when a module has to be imported first.

    `options` are handed to `gymnasium.make`. With a `planner`, every step is labelled with what it would do.
    """

    name: str
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    planner: Planner | None = None
    drawn: bool = False
    """keep a picture of each step"""

    def make(self) -> Any:
        """The environment.

        Raises:
            RequestError: a library is missing, there is no such environment, or its actions are not a finite set.
        """
        gym = need("gymnasium", extra="decision", what="an environment")
        if ":" in self.name:
            need(self.name.partition(":")[0], extra="decision", what=self.name)
        try:
            made = gym.make(self.name, **self.options, **({"render_mode": "rgb_array"} if self.drawn else {}))
        except (gym.error.Error, TypeError) as error:
            mend = "Check task.environment and task.environment_options"
            raise RequestError(f"it cannot be made: {_first_line(error)}", where=self.name, mend=mend) from error
        if not isinstance(made.action_space, gym.spaces.Discrete):
            problem = f"its actions are {made.action_space}, not one of a finite set"
            raise RequestError(problem, where=self.name, mend="Choose an environment with discrete actions")
        return made

    def num_actions(self) -> int:
        """How many actions there are; told by beginning an episode, which also shows early what is wrong.

        Raises:
            RequestError: as `make`; or it cannot be begun, or drawn.
        """
        gym, made = need("gymnasium", extra="decision"), self.make()
        try:
            made.reset(seed=0)
            if self.drawn:
                made.render()
        except gym.error.Error as error:
            raise RequestError(f"it cannot be played: {_first_line(error)}", where=self.name) from error
        finally:
            made.close()
        return int(made.action_space.n)


@dataclasses.dataclass(kw_only=True)
class Episode:
    """What happened, step by step; `told` is what the environment said of each step, `crashed` or `speed` for example.

    `scores` are the planner's worth of each action before each step, `pictures` (height, width, 3) uint8.
    """

    seed: int
    observations: list[np.ndarray] = dataclasses.field(default_factory=list)
    actions: list[int] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)
    scores: list[np.ndarray] = dataclasses.field(default_factory=list)
    told: list[Mapping[str, float]] = dataclasses.field(default_factory=list)
    pictures: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def total(self) -> float:
        """The return: the sum of the rewards, undiscounted."""
        return float(sum(self.rewards))

    def row(self) -> dict[str, object]:
        """The episode as a row of a file of trajectories."""
        row: dict[str, object] = {
            "seed": self.seed,
            "observations": [np.round(entry.astype(float), 5).tolist() for entry in self.observations],
            "actions": self.actions,
            "rewards": [round(reward, 5) for reward in self.rewards],
        }
        if self.scores:
            row["scores"] = [np.round(entry.astype(float), 3).tolist() for entry in self.scores]
        return row | {name: [step[name] for step in self.told] for name in self.told[0]}


Act = Callable[[Sequence[Episode]], Sequence[int]]
"""the action for each of some running episodes, whose last observation is still to be answered"""


def play(
    environment: Environment,
    act: Act,
    seeds: Sequence[int],
    *,
    noise: float = 0.0,
    planned: float = 0.0,
    processes: int = 1,
    say: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """One episode for each seed, in their order; what happens in one does not depend on the others.

    Args:
        act: who drives.
        noise: the share of steps at which a random action is taken instead.
        planned: the share of steps at which the planner drives.
        processes: environments that run at once, each in a process of its own; with 1 in this one.
        say: told each episode as it ends.
    """
    num_actions = environment.num_actions()
    chances = {seed: np.random.default_rng([seed, _NOISE]) for seed in seeds}
    waiting, done = list(seeds), {}
    running: dict[Slot, Episode] = {}
    with contextlib.ExitStack() as stack:
        free = _slots(environment, min(processes, len(seeds)))
        for slot in free:
            stack.enter_context(slot)
        while waiting or running:
            fresh = [(free.pop(), waiting.pop(0)) for _ in range(min(len(free), len(waiting)))]
            for slot, seed in fresh:
                running[slot] = Episode(seed=seed)
                slot.send(Begin(seed))
            for slot, _ in fresh:
                _take(slot.receive(), running[slot])
            for episode, action in zip(running.values(), act(list(running.values())), strict=True):
                episode.actions.append(
                    _varied(int(action), episode, num_actions, chances[episode.seed], noise, planned)
                )
            for slot, episode in running.items():
                slot.send(episode.actions[-1])
            for slot, episode in list(running.items()):
                if _take(slot.receive(), episode):
                    done[episode.seed] = running.pop(slot)
                    free.append(slot)
                    if say is not None:
                        say(episode)
    return [done[seed] for seed in seeds]


def planned_action(episodes: Sequence[Episode]) -> list[int]:
    """Drives as the planner would."""
    return [int(episode.scores[-1].argmax()) for episode in episodes]


class Begin(NamedTuple):
    """The order to begin an episode; any other order is an action."""

    seed: int


class Answer(NamedTuple):
    """What the environment says after an order; `scores` is None without a planner or after the end."""

    observation: np.ndarray
    reward: float
    ended: bool
    told: Mapping[str, float]
    scores: np.ndarray | None
    picture: np.ndarray | None


class Here:
    """An environment in this process."""

    def __init__(self, environment: Environment) -> None:
        self.env, self.planner, self.drawn = environment.make(), environment.planner, environment.drawn
        self._answer: Answer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.env.close()

    def send(self, order: Begin | int) -> None:
        if isinstance(order, Begin):
            observation, _ = self.env.reset(seed=order.seed)
            reward, ended, info = 0.0, False, {}
        else:
            observation, reward, terminated, truncated, info = self.env.step(order)
            ended = bool(terminated or truncated)
        told = {name: float(value) for name, value in info.items() if name in TOLD}
        scores = None if self.planner is None or ended else np.asarray(self.planner(self.env))
        picture = np.array(self.env.render()) if self.drawn else None
        self._answer = Answer(np.asarray(observation, dtype=np.float32), float(reward), ended, told, scores, picture)

    def receive(self) -> Answer:
        assert self._answer is not None
        return self._answer


class Apart:
    """An environment in a fresh Python of its own, so that the caller's main module is not run again."""

    def __init__(self, environment: Environment) -> None:
        command = [sys.executable, "-c", "from danlu.data.episodes import serve; serve()"]
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **path}
        )
        self.send(environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()

    def send(self, order: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the reading tells what is wrong
            pickle.dump(order, self.process.stdin)
            self.process.stdin.flush()

    def receive(self) -> Answer:
        assert self.process.stdout is not None
        try:
            return cast(Answer, pickle.load(self.process.stdout))
        except EOFError:
            problem = f"a process that plays the environment has ended (code {self.process.wait()})"
            raise RunError(problem, mend="Its own words stand above this line") from None


Slot = Here | Apart


def serve() -> None:
    """What a process of `Apart` does until nobody listens any more. What the environment prints goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    here = Here(pickle.load(orders))
    while True:
        try:
            here.send(pickle.load(orders))
        except EOFError:
            return
        pickle.dump(here.receive(), answers)
        answers.flush()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _slots(environment: Environment, number: int) -> list[Slot]:
    return [Apart(environment) for _ in range(number)] if number > 1 else [Here(environment)]


def _take(answer: Answer, episode: Episode) -> bool:
    """Writes an answer down; True when the episode is over."""
    if episode.actions:
        episode.rewards.append(answer.reward)
        episode.told.append(answer.told)
    if answer.picture is not None:
        episode.pictures.append(answer.picture)
    if not answer.ended:
        episode.observations.append(answer.observation)
        if answer.scores is not None:
            episode.scores.append(answer.scores)
    return answer.ended


def _varied(
    action: int, episode: Episode, num_actions: int, chance: np.random.Generator, noise: float, planned: float
) -> int:
    """The action that is really taken. As many numbers are drawn whatever the shares are."""
    lot, other, hands = chance.random(), int(chance.integers(num_actions)), chance.random()
    if hands < planned:
        action = planned_action([episode])[0]
    return other if lot < noise else action
