"""builtin:highway: episodes of highway-env driven by danlu's own planner, disturbed on purpose, with clean labels."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from danlu.data.episodes import Environment, Episode, planned_action, play
from danlu.data.fingerprints import digest_of
from danlu.data.highway_planner import highway_planner
from danlu.data.places import one_builder, telling_disk_troubles, write_text_whole

ENVIRONMENT = "highway_env:highway-fast-v0"
NUM_EPISODES = 300
NOISE = 0.1
"""the share of steps at which a random action is taken, so that the data also show the way back"""


def highway(cache: Path, *, num_episodes: int = NUM_EPISODES) -> Path:
    """The file of episodes 0 to `num_episodes` - 1, played the first time and kept in the cache.

    300 episodes of up to 30 steps take about three minutes on two cores.
    """
    name = digest_of("highway", 1, ENVIRONMENT, num_episodes, NOISE, repr(highway_planner))
    path = cache / "highway" / f"{name}.jsonl"
    if not path.is_file():
        with telling_disk_troubles(cache), one_builder(path):
            if not path.is_file():
                made = Environment(name=ENVIRONMENT, planner=highway_planner)
                cores = len(os.sched_getaffinity(0))
                episodes = play(made, planned_action, range(num_episodes), noise=NOISE, processes=cores)
                write_text_whole(path, lines_of(episodes))
    return path


def lines_of(episodes: Iterable[Episode]) -> str:
    """The text of a file of trajectories, JSON lines."""
    return "".join(json.dumps(episode.row()) + "\n" for episode in episodes)
