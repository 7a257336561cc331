"""Loader: examples become this process's share of a global batch, the next one while the present one is trained on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor, wait
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from danlu.core.batch import Batch
from danlu.data.examples import ExampleSet
from danlu.data.rows import Example
from danlu.data.sampler import BatchSize, Position, Sampler, Wanted

Collate = Callable[[Sequence[Example], Tensor], Batch]
Asked = tuple[Position, BatchSize, frozenset[int], Wanted | None]


class Loader:
    """Draws global batches, the same on every process, and collates the contiguous share of this one.

    A process without rows in a draw gets one row with all its targets muted, since every process must take part in
    every step. One batch is prepared ahead in a thread; asked for another one, the loader drops it. With several
    workers the rows of a batch are read in as many threads.

    A batch whose worker died (its pool broke, its file could not be read) is made anew by new workers, up to
    `MOST_RESTARTS` times in a run: the same rows, so that none is lost or seen twice. `note` is told.
    """

    MOST_RESTARTS = 10

    def __init__(
        self,
        examples: ExampleSet,
        sampler: Sampler,
        collate: Collate,
        *,
        rank: int = 0,
        world_size: int = 1,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.examples = examples
        self.sampler = sampler
        self._collate = collate
        self._rank = rank
        self._world_size = world_size
        self._note = note
        self.restarts = 0
        self.workers = 1
        self._pool, self._readers = self._pools()
        self._ahead: tuple[Asked, Future[tuple[Batch, Position]]] | None = None

    def draw(
        self,
        position: Position,
        size: BatchSize,
        skip: frozenset[int] = frozenset(),
        wanted: Wanted | None = None,
    ) -> tuple[Batch, Position, float]:
        """(this process's rows, the position after the global batch, seconds spent waiting)."""
        started = perf_counter()
        asked = (position, size, skip, wanted)
        if self._ahead is not None and self._ahead[0] == asked:
            batch, after = self._outliving(self._ahead[1].result, asked)
        else:
            if self._ahead is not None:
                self._ahead[1].cancel()
            batch, after = self._outliving(lambda: self._make(*asked), asked)
        self._ahead = ((after, size, skip, wanted), self._pool.submit(self._make, after, size, skip, wanted))
        return batch, after, perf_counter() - started

    def set_workers(self, number: int) -> None:
        """From the next batch on its rows are read in so many threads: for data that are waited for, not computed."""
        if self._ahead is not None:
            wait([self._ahead[1]])  # it may be reading in the threads that end here
        self.workers, old = number, self._readers
        self._readers = ThreadPoolExecutor(number, thread_name_prefix="danlu-reader")
        old.shutdown(wait=False)

    def close(self) -> None:
        """Ends the threads."""
        for pool in (self._pool, self._readers):
            pool.shutdown(cancel_futures=True)
        self._ahead = None

    def _pools(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        ahead = ThreadPoolExecutor(1, thread_name_prefix="danlu-loader")
        return ahead, ThreadPoolExecutor(self.workers, thread_name_prefix="danlu-reader")

    def _outliving(self, make: Callable[[], tuple[Batch, Position]], asked: Asked) -> tuple[Batch, Position]:
        try:
            return make()
        except (BrokenExecutor, OSError) as error:
            self.restarts += 1
            if self.restarts > self.MOST_RESTARTS:
                raise
            self._note(f"a data worker died ({error}); its batch is made anew by a new one")
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._readers.shutdown(wait=False, cancel_futures=True)
            self._pool, self._readers = self._pools()
        return self._outliving(lambda: self._make(*asked), asked)

    def _make(
        self, position: Position, size: BatchSize, skip: frozenset[int], wanted: Wanted | None
    ) -> tuple[Batch, Position]:
        indices, after = self.sampler.draw(position, size, skip, wanted)
        read = self._read if self.workers > 1 else None
        return share(self.examples, indices, self._collate, self._rank, self._world_size, read=read), after

    def _read(self, indices: np.ndarray) -> list[Example]:
        """The examples, a part of them in each thread."""
        parts = self._readers.map(self._read_part, np.array_split(indices, self.workers))
        return [example for part in parts for example in part]

    def _read_part(self, indices: np.ndarray) -> list[Example]:
        return [self.examples[int(at)] for at in indices]


def share(
    examples: ExampleSet,
    indices: np.ndarray,
    collate: Collate,
    rank: int,
    world_size: int,
    *,
    read: Callable[[np.ndarray], Sequence[Example]] | None = None,
) -> Batch:
    """The contiguous share of `indices` that belongs to one process, collated."""
    start, stop = (len(indices) * part // world_size for part in (rank, rank + 1))
    if start == stop:
        return _collated(examples, indices[:1], collate).muted()
    if read is not None:
        return collate(read(indices[start:stop]), torch.from_numpy(np.ascontiguousarray(indices[start:stop])))
    return _collated(examples, indices[start:stop], collate)


def batches(
    examples: ExampleSet, collate: Collate, size: BatchSize, *, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Every example exactly once over all processes, for evaluation; the same number of batches on each process.

    `size` is that of a global batch. Examples of similar lengths come together, the longest first, so that want of
    memory shows at once.
    """
    order = np.argsort(-np.asarray(examples.lengths), kind="stable")
    lengths = examples.lengths[order]
    for indices in np.split(order, _bounds(lengths, size)):
        yield share(examples, indices, collate, rank, world_size)


def _bounds(lengths: np.ndarray, size: BatchSize) -> Sequence[int]:
    if size.examples is not None:
        return range(size.examples, len(lengths), size.examples)
    sums = np.concatenate([[0], np.cumsum(lengths)])
    bounds = [0]
    while bounds[-1] < len(lengths):
        fitting = int(np.searchsorted(sums, sums[bounds[-1]] + (size.tokens or 1), side="right")) - 1
        bounds.append(max(fitting, bounds[-1] + 1))
    return bounds[1:-1]


def _collated(examples: ExampleSet, indices: np.ndarray, collate: Collate) -> Batch:
    return collate([examples[int(at)] for at in indices], torch.from_numpy(np.ascontiguousarray(indices)))
