"""Playing: a policy drives in its environment, and what comes of it in numbers and in a picture."""

import base64
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from danlu.core.extras import need
from danlu.data.episodes import Episode
from danlu.data.trajectories import as_observations
from danlu.maths.intervals import of_mean, wilson

RATES: Mapping[str, str] = {"crashed": "crash_rate", "is_success": "success_rate", "success": "success_rate"}
"""what an environment says of the last step → the share of episodes where it is true"""
MEANS: Mapping[str, str] = {"speed": "mean_speed"}
"""what it says of every step → the mean over an episode, then over episodes"""
NUM_FRAMES = 10


def play_scores(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return, length, rates and means, with the ends of their 95 % intervals where there are several episodes."""
    totals = [episode.total for episode in episodes]
    found = {"return": statistics.fmean(totals), "steps": statistics.fmean(len(entry.actions) for entry in episodes)}
    found |= _bounds("return", of_mean(totals))
    for told, name in RATES.items():
        ends = [episode.told[-1][told] > 0 for episode in episodes if told in episode.told[-1]]
        if ends:
            found |= {name: sum(ends) / len(ends), **_bounds(name, wilson(sum(ends), len(ends)))}
    for told, name in MEANS.items():
        if all(told in step for episode in episodes for step in episode.told):
            means = [statistics.fmean(step[told] for step in episode.told) for episode in episodes]
            found |= {name: statistics.fmean(means), **_bounds(name, of_mean(means))}
    return found


def _bounds(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


class Driver:
    """Takes the likeliest action, given as many steps as `model` can see; `target_return` is what to reach in all."""

    def __init__(self, model: nn.Module, target_return: float = 0.0) -> None:
        self.model, self.target_return = model, target_return
        config: Any = cast(PreTrainedModel, model).config
        self.context = int(config.max_position_embeddings)

    def __call__(self, episodes: Sequence[Episode]) -> list[int]:
        rows = [self._row(episode) for episode in episodes]
        return scores_of(self.model, inputs_of(rows)).argmax(1).tolist()

    def _row(self, episode: Episode) -> dict[str, np.ndarray]:
        kept = slice(-self.context, None)
        left = self.target_return - np.cumsum([0.0, *episode.rewards])
        return {
            "observations": as_observations(np.stack(episode.observations[kept]), "observations"),
            "past_actions": np.array([-1, *episode.actions], dtype=np.int64)[kept],
            "returns": left.astype(np.float32)[kept],
        }


def inputs_of(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
    """What a policy's forward takes, padded behind: see `models/families/policy.py`."""
    longest = max(len(row["observations"]) for row in rows)
    mask_BK = np.zeros((len(rows), longest), dtype=np.int64)
    for row, mask_K in zip(rows, mask_BK, strict=True):
        mask_K[: len(row["observations"])] = 1
    inputs = {"attention_mask": torch.from_numpy(mask_BK)}
    for name in ("observations", "past_actions", "returns"):
        first = rows[0][name]
        padded = np.zeros((len(rows), longest, *first.shape[1:]), dtype=first.dtype)
        for row, into in zip(rows, padded, strict=True):
            into[: len(row[name])] = row[name]
        inputs[name] = torch.from_numpy(padded)
    return inputs


@torch.no_grad()
def scores_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, A) on the CPU; the model is left in the mode that it was in."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        found = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).logits
    finally:
        model.train(was_training)
    return torch.as_tensor(found).float().cpu()


def film_of(episode: Episode) -> dict[str, str]:
    """Some frames of an episode, evenly spread, as base64 PNGs with blanks between, and their steps."""
    image = need("PIL.Image", extra="decision", what="a film strip")
    last = len(episode.pictures) - 1
    places = sorted({round(at) for at in np.linspace(0, last, NUM_FRAMES)})
    frames = []
    for at in places:
        file = io.BytesIO()
        image.fromarray(episode.pictures[at]).quantize(64).save(file, "PNG", optimize=True)
        frames.append(base64.b64encode(file.getvalue()).decode())
    return {"film": " ".join(frames), "film_steps": " ".join(map(str, places))}
