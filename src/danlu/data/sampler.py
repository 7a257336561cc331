"""Sampler: which examples come next, as a pure function of where the run stands."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Self

import numpy as np
from pydantic import Field

from danlu.core.config import Config
from danlu.core.errors import DataError, RequestError
from danlu.core.seeds import seed_of
from danlu.data.hashing import mix_many, shuffled

_RUNS_A_WINDOW = 256
_NEARLY_FULL = 0.75


class BatchSize(Config):
    """The size of a global batch: `{tokens: 8192}` (padding not counted) or `{examples: 32}`."""

    tokens: int | None = Field(default=None, ge=1)
    """at most this many tokens, but always at least one example"""
    examples: int | None = Field(default=None, ge=1)
    """this many examples"""

    def model_post_init(self, _context: object) -> None:
        if (self.tokens is None) == (self.examples is None):
            raise ValueError("give either tokens or examples")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands in its data: `cursor` examples of epoch `epoch` are behind it."""

    epoch: int = 0
    cursor: int = 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "cursor": self.cursor}

    @classmethod
    def load(cls, state: Mapping[str, int]) -> Self:
        return cls(epoch=int(state["epoch"]), cursor=int(state["cursor"]))


class Wanted:
    """How often each of N examples is wanted: weights ≥ 0 as running sums, scaled to N.

    Raises:
        RequestError: not one number for each example, a negative or infinite one, or nothing but zeros.
    """

    def __init__(self, weights_N: np.ndarray, num_examples: int) -> None:
        sums_N = np.cumsum(weights_N, dtype=np.float64)
        if len(sums_N) != num_examples or not 0 < sums_N[-1] < np.inf or (weights_N < 0).any():
            problem = f"{num_examples} examples want as many weights, not below zero and not all zero"
            raise RequestError(problem, where="techniques", mend="See what decides which examples are drawn")
        self.sums_N = sums_N * (num_examples / sums_N[-1])
        self.last = int(np.flatnonzero(weights_N)[-1])


class Sampler:
    """Draws every example once per epoch, in an order that depends on the seed and the epoch alone.

    With weights (`Wanted`) an example comes N w_i / Σw times an epoch on average, rounded up or down: an epoch has N
    places in random order, and place p draws the example at which the running sum of the weights passes p + u, with one
    u in (0, 1) an epoch (systematic sampling, Madow 1949). So the draw is a function of seed, place and weights alone;
    the weights may change at any place; and equal weights give the order without weights.

    The order is never made as a whole, so a billion examples cost no more than a thousand. With `bucket`, neighbours
    in the order have similar lengths: windows of the shuffled order are sorted by length and cut into runs of size
    `run` (best the size of a batch), and the runs are shuffled.

    Args:
        lengths: (N,) tokens of each example.
        shuffle: False keeps the order of the examples.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        seed: int,
        bucket: bool = False,
        shuffle: bool = True,
        run: BatchSize | None = None,
    ) -> None:
        if not len(lengths):
            raise DataError("there is no example to draw", where="data.train", mend="Give a source with usable rows")
        self.lengths = lengths
        self._seed = seed
        self._shuffle = shuffle
        self._run = run or BatchSize(examples=32)
        mean = max(float(np.mean(lengths)), 1.0)
        run_rows = self._run.examples or max(1, round((self._run.tokens or 1) / mean))
        self._window_rows = max(256, _RUNS_A_WINDOW * run_rows) if bucket else 0
        self._mean = mean

    def __len__(self) -> int:
        return len(self.lengths)

    def epochs(self, position: Position) -> float:
        """Passes over the data so far, fractions included."""
        return position.epoch + position.cursor / len(self)

    def draw(
        self,
        position: Position,
        size: BatchSize,
        skip: frozenset[int] = frozenset(),
        wanted: Wanted | None = None,
    ) -> tuple[np.ndarray, Position]:
        """The next examples after `position`, and the position after them; `skip` are left out.

        The last batch of an epoch may be smaller. In buckets, a batch measured in tokens ends with its run when it is
        three quarters full, rather than take a few examples of quite other lengths.

        Raises:
            DataError: `skip` holds every example that is wanted.
        """
        for epoch in (position.epoch, position.epoch + 1):
            start = position.cursor if epoch == position.epoch else 0
            indices, cursor = self._draw_within(epoch, start, size, skip, wanted)
            if len(indices):
                done = cursor >= len(self)
                return indices, Position(epoch=epoch + done, cursor=0 if done else cursor)
        raise DataError("every example is quarantined", where="data.train", mend="Look at the data and start anew")

    def order(self, epoch: int, start: int, stop: int, wanted: Wanted | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(examples, ends): those at the places [start, stop) of an epoch's order, and whether a run ends there."""
        places = np.arange(start, stop)
        if not self._window_rows:
            return self._at(epoch, places, wanted), np.zeros(len(places), dtype=bool)
        windows = range(start // self._window_rows, (max(stop, start + 1) - 1) // self._window_rows + 1)
        parts = [self._window(epoch, window, wanted) for window in windows]
        offset = windows[0] * self._window_rows
        examples, ends = (np.concatenate(both)[start - offset : stop - offset] for both in zip(*parts, strict=True))
        return examples, ends

    def _at(self, epoch: int, places: np.ndarray, wanted: Wanted | None) -> np.ndarray:
        if self._shuffle:
            places = shuffled(places, len(self), seed_of(self._seed, "epoch", epoch))
        if wanted is None:
            return places
        shift = (seed_of(self._seed, "shift", epoch) % 2**32 + 0.5) / 2**32
        return np.minimum(np.searchsorted(wanted.sums_N, places + shift, side="right"), wanted.last)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - a sampler lives as long as its run
    def _window(self, epoch: int, window: int, wanted: Wanted | None) -> tuple[np.ndarray, np.ndarray]:
        start = window * self._window_rows
        examples = self._at(epoch, np.arange(start, min(start + self._window_rows, len(self))), wanted)
        examples = examples[np.argsort(self.lengths[examples], kind="stable")]
        bounds = _runs(self.lengths[examples], self._run)
        runs = np.split(examples, bounds[:-1])
        salt = seed_of(self._seed, "runs", epoch, window)
        order = np.argsort(mix_many(np.arange(len(runs)), salt), kind="stable") if self._shuffle else range(len(runs))
        shuffled_runs = [runs[at] for at in order]
        ends = np.zeros(len(examples), dtype=bool)
        ends[np.cumsum([len(run) for run in shuffled_runs]) - 1] = True
        return np.concatenate(shuffled_runs), ends

    def _draw_within(
        self, epoch: int, start: int, size: BatchSize, skip: frozenset[int], wanted: Wanted | None
    ) -> tuple[np.ndarray, int]:
        """The next examples of one epoch from place `start`, and the place after them."""
        guess = size.examples or int((size.tokens or 1) / self._mean * 1.25) + 8
        found = np.zeros(0, dtype=np.int64)
        places = np.zeros(0, dtype=np.int64)
        ends = np.zeros(0, dtype=bool)
        at = start
        while at < len(self):
            stop = min(at + guess, len(self))
            examples, run_ends = self.order(epoch, at, stop, wanted)
            keep = ~np.isin(examples, list(skip)) if skip else np.ones(len(examples), dtype=bool)
            found = np.concatenate([found, examples[keep]])
            places = np.concatenate([places, np.arange(at, stop)[keep]])
            ends = np.concatenate([ends, run_ends[keep]])
            at = stop
            taken = _num_fitting(self.lengths[found], ends, size)
            if taken < len(found) or (size.examples is not None and taken == size.examples):
                return found[:taken], int(places[taken - 1]) + 1
        return found, at


def _num_fitting(lengths: np.ndarray, ends: np.ndarray, size: BatchSize) -> int:
    """How many of the examples, from the first on, make a batch."""
    if size.examples is not None:
        return min(size.examples, len(lengths))
    tokens = size.tokens or 1
    sums = np.cumsum(lengths)
    fitting = max(1, int(np.searchsorted(sums, tokens, side="right")))
    full_runs = np.flatnonzero(ends[:fitting] & (sums[:fitting] >= _NEARLY_FULL * tokens))
    return int(full_runs[0]) + 1 if len(full_runs) and len(lengths) > fitting else min(fitting, len(lengths))


def _runs(lengths: np.ndarray, size: BatchSize) -> np.ndarray:
    """Where each run of sorted examples ends. Runs measured in tokens are about equal, so that none is a small rest."""
    if size.examples is not None:
        return np.append(np.arange(size.examples, len(lengths), size.examples), len(lengths))
    limit = size.tokens or 1
    sums = np.cumsum(lengths)
    num_runs = -(-int(sums[-1]) // limit)
    while True:
        shares = sums[-1] * np.arange(1, num_runs) / num_runs
        bounds = np.unique(np.append(np.searchsorted(sums, shares, side="right"), len(lengths)))
        bounds = bounds[bounds > 0]
        over = np.diff(sums[bounds - 1], prepend=0) > limit
        if not (over & (np.diff(bounds, prepend=0) > 1)).any():
            return bounds
        num_runs += 1 + num_runs // 64
