"""Documents of any length become rows of at most `context` tokens, cut and, if wanted, packed.

Cutting: a document of L > C tokens gives pieces of C tokens, each beginning with the last token of the one before, so
that every token but the document's first is predicted exactly once. Packing: several pieces share a row without
seeing each other. Best-fit decreasing (Johnson 1973; for language models Ding et al. 2024, "Fewer truncations improve
language modeling"): each piece, the longest first, goes to the fullest row that still has room for it. Where data.train
is a list of sources, pieces of different sources never share a row, so that a row belongs to one.

A row is {input_ids (T,), labels (T,), position_ids (T,), num_bytes ()}. Labels stand at their own token (the task
compares logits[t] with labels[t + 1]); they are -100 where no loss is wanted and at each piece's first token, so that
nothing is predicted across a border. Positions restart at each piece; that is how attention knows the borders.
"""

import functools
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from danlu.core.batch import IGNORED
from danlu.core.seeds import seed_of
from danlu.data.examples import Examples, Listed
from danlu.data.fingerprints import digest_of
from danlu.data.hashing import mix_many
from danlu.data.rows import Example


class Pieces:
    """The documents of `examples`, cut to `context`; one piece a row. Costs 24 bytes a piece, no token is copied."""

    def __init__(self, examples: Examples, context: int) -> None:
        self.examples = examples
        self.context = context
        whole = examples.lengths
        num_pieces = np.maximum(1, -((1 - whole) // (context - 1)))  # ceil((L - 1) / (C - 1))
        num_pieces[whole <= context] = 1
        self._document = np.repeat(np.arange(len(whole)), num_pieces)
        first = np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
        self._start = (np.arange(len(first)) - first) * (context - 1)
        self.lengths: np.ndarray = np.minimum(whole[self._document] - self._start, context)
        """(len,) tokens of each piece"""

    @property
    def fingerprint(self) -> str:
        """Names the content: equal fingerprints, equal rows."""
        return digest_of("pieces", self.examples.fingerprint, self.context)

    @property
    def skipped(self) -> Listed:
        """Rows of the source that could not be used."""
        return self.examples.skipped

    @property
    def truncated(self) -> Listed:
        """Rows of the source that lost a part for want of context."""
        return self.examples.truncated

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows; what two pieces share is counted twice."""
        return int(self.lengths.sum())

    @functools.cached_property
    def num_bytes(self) -> np.ndarray:
        """(len,) int64: UTF-8 bytes of what carries loss in each piece; they add up exactly over a document."""
        if not self.examples.has("num_bytes"):
            return np.zeros(len(self), dtype=np.int64)
        total = self.examples.column("num_bytes")[self._document]
        targets = np.maximum(self.examples.lengths[self._document] - 1, 1)
        upto = np.floor(total * ((self._start + self.lengths - 1) / targets))
        before = np.floor(total * (self._start / targets))
        alone = self.lengths == self.examples.lengths[self._document]
        return np.where(alone, total, upto - before).astype(np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def column(self, name: str) -> np.ndarray:
        """A number of each piece's document."""
        return self.examples.column(name)[self._document]

    def __getitem__(self, at: int) -> Example:
        return self.row(np.array([at]))

    def row(self, pieces: np.ndarray) -> Example:
        """One row that holds these pieces, one after the other."""
        lengths = self.lengths[pieces]
        ends = np.cumsum(lengths)
        input_ids = np.empty(int(ends[-1]), dtype=np.int64)
        labels = np.empty_like(input_ids)
        position_ids = np.empty_like(input_ids)
        for at, end, length in zip(pieces.tolist(), ends.tolist(), lengths.tolist(), strict=True):
            begin = end - length
            document, start = int(self._document[at]), int(self._start[at])
            ids = self.examples.part("input_ids", document, start, start + length)
            input_ids[begin:end] = labels[begin:end] = ids
            if self.examples.has("labels_mask"):
                mask = self.examples.part("labels_mask", document, start, start + length)
                labels[begin:end][~mask] = IGNORED
            labels[begin] = IGNORED
            position_ids[begin:end] = np.arange(length)
        num_bytes = np.asarray(self.num_bytes[pieces].sum())
        return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids, "num_bytes": num_bytes}


class Packed:
    """Pieces in shared rows. `fill` is the share of the rows' room that holds tokens."""

    def __init__(self, pieces: Pieces, seed: int) -> None:
        self.pieces = pieces
        self.context = pieces.context
        self._seed = seed
        several = any(pieces.examples.sources.values())
        self._groups = pieces.column("source") if several else np.zeros(len(pieces), dtype=np.int64)
        self._order, self._ends = _apart(pieces.lengths, pieces.context, seed, self._groups)
        sums = np.concatenate([[0], np.cumsum(pieces.lengths[self._order])])
        self.lengths: np.ndarray = np.diff(sums[self._ends], prepend=0)
        """(len,) tokens of each row"""

    @property
    def fingerprint(self) -> str:
        """Names the content: equal fingerprints, equal rows."""
        groups = [np.cumsum(np.bincount(self._groups)).tolist()] if self._groups.any() else []
        return digest_of("packed", self.pieces.fingerprint, self._seed, *groups)

    @property
    def skipped(self) -> Listed:
        """Rows of the source that could not be used."""
        return self.pieces.skipped

    @property
    def truncated(self) -> Listed:
        """Rows of the source that lost a part for want of context."""
        return self.pieces.truncated

    @property
    def fill(self) -> float:
        return self.num_tokens / (len(self) * self.context)

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    def __len__(self) -> int:
        return len(self._ends)

    def column(self, name: str) -> np.ndarray:
        """A number of each row's first document; the source is that of all."""
        starts = np.concatenate([[0], self._ends[:-1]])
        return (self._groups if name == "source" else self.pieces.column(name))[self._order[starts]]

    def __getitem__(self, at: int) -> Example:
        return self.pieces.row(self.pieces_of(at))

    def pieces_of(self, at: int) -> np.ndarray:
        """The pieces in a row, in the order of their documents."""
        if not -len(self) <= at < len(self):
            raise IndexError(f"there is no row {at} among {len(self)}")
        at %= len(self)
        return self._order[int(self._ends[at - 1]) if at else 0 : int(self._ends[at])]


def cut(examples: Examples, context: int) -> Pieces:
    """One piece a row, for padding to length buckets."""
    return Pieces(examples, context)


def pack(examples: Examples, context: int, seed: int) -> Packed:
    """Several pieces a row. `seed` decides which of the equally long pieces meet. A million documents take a second."""
    return Packed(Pieces(examples, context), seed)


def _apart(lengths: np.ndarray, capacity: int, seed: int, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`best_fit` of each group by itself, one after the other."""
    orders, all_ends, num_before = [], [], 0
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        order, ends = best_fit(lengths[places], capacity, seed)
        orders.append(places[order])
        all_ends.append(ends + num_before)
        num_before += len(places)
    return np.concatenate(orders), np.concatenate(all_ends)


def best_fit(lengths: np.ndarray, capacity: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit decreasing: (order, ends), so that row r holds `order[ends[r - 1]:ends[r]]`, in ascending order.

    All pieces of one length are placed at once, so that the work grows with the number of different lengths; the
    result is that of placing them one by one. Every length must be in [0, capacity].
    """
    number = np.arange(len(lengths))
    ties = np.argsort(mix_many(number, seed_of(seed, "packing")), kind="stable")
    descending = ties[np.argsort(-lengths[ties], kind="stable")]
    sizes, counts = np.unique(lengths, return_counts=True)
    row_of = np.empty(len(lengths), dtype=np.int64)
    rows = _OpenRows(capacity)
    at = 0
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        for chosen in rows.place(size, count):
            row_of[descending[at : at + len(chosen)]] = chosen
            at += len(chosen)
    by_row = np.lexsort((number, row_of))
    return by_row, np.cumsum(np.bincount(row_of, minlength=rows.num_rows))


class _OpenRows:
    """Rows by the room that they have left."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.num_rows = 0
        self._with_room: dict[int, list[np.ndarray]] = defaultdict(list)
        self._rooms = 0  # bit n is set when some row has room n

    def place(self, size: int, count: int) -> Iterator[np.ndarray]:
        """Row numbers for `count` pieces of one size, run by run."""
        size = max(size, 1)
        while count and (fitting := self._rooms >> size):
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = self._fill(self._take(room), room, size, count)
            count -= len(chosen)
            yield chosen
        if count:
            num_new = -(-count // (self.capacity // size))
            new = np.arange(self.num_rows, self.num_rows + num_new)
            self.num_rows += num_new
            yield self._fill(new, self.capacity, size, count)

    def _fill(self, rows: np.ndarray, room: int, size: int, count: int) -> np.ndarray:
        """Puts as many pieces as fit, at most `count`, into rows of equal room, one row after the other."""
        each = room // size
        num_full, rest = divmod(min(count, each * len(rows)), each)
        self._put(rows[:num_full], room - each * size)
        if rest:
            self._put(rows[num_full : num_full + 1], room - rest * size)
        self._put(rows[num_full + bool(rest) :], room)
        return np.repeat(rows, each)[: num_full * each + rest]

    def _take(self, room: int) -> np.ndarray:
        self._rooms &= ~(1 << room)
        return np.concatenate(self._with_room.pop(room))

    def _put(self, rows: np.ndarray, room: int) -> None:
        if room and len(rows):
            self._rooms |= 1 << room
            self._with_room[room].append(rows)
