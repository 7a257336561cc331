"""Trajectories: a row is an episode; an example is a step with the steps before it.

Shapes: T steps of an episode, N objects of F features (a plain vector is one object), A actions.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from danlu.core.errors import DataError
from danlu.data.columns import Columns, find_roles
from danlu.data.encoding import Encoded
from danlu.data.examples import Examples
from danlu.data.fingerprints import digest_of
from danlu.data.rows import BadField, Example, Row

ALIASES: Mapping[str, tuple[str, ...]] = {
    "observations": ("observations", "observation", "obs", "states"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "labels": ("labels", "label", "expert_actions"),
    "scores": ("scores", "action_scores"),
}
"""role → names of columns that are understood without being told"""
NEEDED, OPTIONAL = ("observations", "actions"), ("rewards", "labels", "scores")


def trajectory_columns(fields: Mapping[str, object], *, told: Mapping[str, str], where: str) -> Columns:
    """The columns of a row of trajectories.

    Raises:
        RequestError, DataError: see `find_roles`.
    """
    found = find_roles(fields, needed=NEEDED, optional=OPTIONAL, aliases=ALIASES, told=told, where=where)
    return Columns(kind="text", by_role=found)


def as_observations(value: object, field: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """(T, N, F) float32, from T observations of any shape: one of two axes is a set of objects, others are flattened.

    Raises:
        BadField: they are not numbers, are not alike, or differ from `shape` (N, F).
    """
    try:
        found = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise BadField(field, "holds observations that are not numbers, or not all of one shape") from None
    if found.ndim < 2 or not found.size:
        raise BadField(field, "is no list of observations", "Give one array of numbers for each step")
    if not np.isfinite(found).all():
        raise BadField(field, "holds a number that is not finite")
    found = found if found.ndim == 3 else found.reshape(len(found), 1, -1)
    if shape is not None and found.shape[1:] != shape:
        raise BadField(field, f"holds observations of shape {found.shape[1:]}, the first row's are {shape}")
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectoryEncoder:
    """One example an episode: `observations` (T, N, F), `actions`, `targets`, `returns` (T,), and `scores` (T, A).

    `targets` are the labels where there are some, else the best scored actions, else those taken. `returns` are the
    sums of the rewards from each step on; without rewards they are 0.
    """

    columns: Mapping[str, str]
    shape: tuple[int, int]
    num_actions: int | None = None

    @property
    def key(self) -> str:
        return digest_of("trajectories", 1, sorted(self.columns.items()), self.shape, self.num_actions)

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        return [self._row(row.fields) for row in rows]

    def _row(self, fields: Mapping[str, object]) -> Encoded:
        try:
            return [self.one(fields)]
        except BadField as bad:
            return bad

    def one(self, fields: Mapping[str, object]) -> Example:
        """The example of an episode.

        Raises:
            BadField: a field is missing, not numbers, or of another length than the observations.
        """
        observations_TNF = as_observations(
            self._given(fields, "observations"), self.columns["observations"], self.shape
        )
        steps = len(observations_TNF)
        actions_T = self._whole(fields, "actions", steps)
        targets_T = actions_T
        example = {"observations": observations_TNF, "actions": actions_T}
        if "scores" in self.columns:
            scores_TA = self._numbers(fields, "scores", steps)
            if scores_TA.ndim != 2 or (self.num_actions and scores_TA.shape[1] != self.num_actions):
                wanted = f"{self.num_actions} numbers" if self.num_actions else "a number for each action"
                raise BadField(self.columns["scores"], f"must hold {wanted} a step")
            example["scores"], targets_T = scores_TA, scores_TA.argmax(1)
        if "labels" in self.columns:
            targets_T = self._whole(fields, "labels", steps)
        rewards_T = self._numbers(fields, "rewards", steps) if "rewards" in self.columns else np.zeros(steps)
        example["targets"] = targets_T.astype(np.int64)
        example["returns"] = np.ascontiguousarray(rewards_T[::-1].cumsum()[::-1], dtype=np.float32)
        return example

    def _given(self, fields: Mapping[str, object], role: str) -> object:
        column = self.columns[role]
        if fields.get(column) is None:
            raise BadField(column, "is missing")
        return fields[column]

    def _numbers(self, fields: Mapping[str, object], role: str, steps: int) -> np.ndarray:
        column = self.columns[role]
        try:
            found = np.asarray(self._given(fields, role), dtype=np.float32)
        except (TypeError, ValueError):
            raise BadField(column, "holds something else than numbers") from None
        if found.ndim == 0 or len(found) != steps:
            held = 0 if found.ndim == 0 else len(found)
            raise BadField(column, f"holds {held} steps, the observations {steps}", "Give one for each observation")
        if not np.isfinite(found).all():
            raise BadField(column, "holds a number that is not finite")
        return found

    def _whole(self, fields: Mapping[str, object], role: str, steps: int) -> np.ndarray:
        """(T,) int64, all in [0, A)."""
        found = self._numbers(fields, role, steps)
        top = self.num_actions or np.inf
        wrong = found[(found != np.rint(found)) | (found < 0) | (found >= top)] if found.ndim == 1 else found.ravel()
        if len(wrong):
            known = f"0 to {self.num_actions - 1}" if self.num_actions else "whole numbers from 0 on"
            raise BadField(self.columns[role], f"holds the action {wrong[0]:g}; actions are {known}")
        return found.astype(np.int64)


class Steps:
    """Every step of the episodes as an example of its own: with the steps before it, `context` in all at most.

    An example holds `observations` (K, N, F), `past_actions` (K,), -1 before the first, `returns` (K,), `target` and,
    where there are some, `scores` (A,) of its last step.
    """

    def __init__(self, episodes: Examples, context: int) -> None:
        self.episodes, self.context = episodes, context
        self.ends = episodes.lengths.cumsum()
        places = np.concatenate([np.arange(length) for length in episodes.lengths])
        self.lengths = np.minimum(places + 1, context)
        self.fingerprint = digest_of("steps", episodes.fingerprint, context)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, at: int) -> Example:
        episode = int(np.searchsorted(self.ends, at, side="right"))
        place = at - (int(self.ends[episode - 1]) if episode else 0)
        start, stop = max(0, place + 1 - self.context), place + 1
        actions_T = self.episodes.part("actions", episode, max(start - 1, 0), place)
        before = np.full(stop - start - len(actions_T), -1, dtype=np.int64)
        example = {
            "observations": self.episodes.part("observations", episode, start, stop),
            "past_actions": np.concatenate([before, actions_T]),
            "returns": self.episodes.part("returns", episode, start, stop),
            "target": self.episodes.part("targets", episode, place, stop)[0],
        }
        if self.episodes.has("scores"):
            example["scores"] = self.episodes.part("scores", episode, place, stop)[0]
        return example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
    """What a policy must know of its data: how to rescale the features of the first object and of the others (2, F)."""

    shift_2F: np.ndarray
    scale_2F: np.ndarray
    largest_return: float
    num_actions: int


def measure(episodes: Examples) -> Measures:
    """Mean and spread of every feature over the objects that are there, and the largest action and return."""
    width = episodes.meta.fields["observations"].inner[1]
    count, total, squares = np.zeros((2, 1)), np.zeros((2, width)), np.zeros((2, width))
    largest, actions = 0.0, 0
    for at in range(len(episodes)):
        example = episodes[at]
        for which, part_TNF in enumerate((example["observations"][:, :1], example["observations"][:, 1:])):
            there_RF = part_TNF[(part_TNF != 0).any(-1)].astype(np.float64)
            count[which] += len(there_RF)
            total[which] += there_RF.sum(0)
            squares[which] += np.square(there_RF).sum(0)
        largest = max(largest, float(np.abs(example["returns"]).max()))
        scored = example["scores"].shape[1] if "scores" in example else 0
        actions = max(actions, scored, int(example["targets"].max()) + 1, int(example["actions"].max()) + 1)
    shift_2F = total / np.maximum(count, 1)
    spread_2F = np.sqrt(np.maximum(squares / np.maximum(count, 1) - np.square(shift_2F), 0))
    scale_2F = np.where(spread_2F > 1e-6, 1 / np.maximum(spread_2F, 1e-6), 0.0)  # what never varies tells nothing
    return Measures(shift_2F=shift_2F, scale_2F=scale_2F, largest_return=largest, num_actions=actions)


def shape_of(fields: Mapping[str, object], columns: Mapping[str, str], where: str) -> tuple[int, int]:
    """(N, F) of the observations of the first row.

    Raises:
        DataError: they are no observations.
    """
    column = columns["observations"]
    try:
        found = as_observations(fields.get(column), column)
    except BadField as bad:
        raise DataError(bad.problem, where=f"{where}, row 1, field {column}", mend=bad.mend) from None
    return found.shape[1], found.shape[2]
