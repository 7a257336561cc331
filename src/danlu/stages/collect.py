"""Collect: episodes played by a model or by the planner, written down with the planner's labels."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from danlu.core.config import read_options
from danlu.core.errors import RequestError
from danlu.data.episodes import Act, Episode, planned_action, play
from danlu.data.highway import lines_of
from danlu.stages.evaluate import check_writable
from danlu.stages.run_folder import write_atomically
from danlu.stages.trained import open_model
from danlu.tasks._playing import play_scores
from danlu.tasks.decision import Decision

PLANNER = "planner"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collecting:
    """How to play: so many episodes from a first seed on, and how the driver is disturbed."""

    episodes: int = 200
    seed: int = 0
    noise: float = 0.0
    """the share of steps at which a random action is taken"""
    planned: float = 0.0
    """the share of steps at which the planner drives in the model's place"""
    labelled: bool = True
    """write down what the planner would do"""


def collect(
    driver: str | Path,
    how: Collecting,
    *,
    out: Path | None = None,
    options: Mapping[str, object] | None = None,
    say: Callable[[Episode], None] | None = None,
) -> dict[str, float]:
    """Plays, writes the episodes to `out` (JSON lines, whole or not at all), and returns the metrics of playing.

    Args:
        driver: a run folder or a model's folder, or `planner`.
        options: keys of the decision task that differ from the model's training, or that the planner needs.
        say: told each episode as it ends.

    Raises:
        RequestError: there is no such model, environment or planner, or `out` cannot be written.
    """
    if out is not None:
        check_writable(out)
    if str(driver) == PLANNER:
        task, act = read_options(Decision, options or {}), cast(Act, planned_action)
    else:
        opened = open_model(driver)
        if not isinstance(opened.task, Decision):
            problem = f"a model for {opened.task.kind()} does not play"
            raise RequestError(problem, where=str(driver), mend="Give one of the task decision")
        task = opened.task.varied(options or {})
        act = task.driver(opened.model)
    labelled = how.labelled or how.planned > 0 or str(driver) == PLANNER
    seeds = range(how.seed, how.seed + how.episodes)
    simulator = task.simulator(planned=labelled)
    disturbed = {"noise": how.noise, "planned": how.planned}
    episodes = play(simulator, act, seeds, processes=task.num_processes, say=say, **disturbed)
    if out is not None:
        write_atomically(out, lines_of(episodes))
    return play_scores(episodes)
