"""Rows become examples in files: read, encode many at a time in threads, write in order. Memory stays flat."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Protocol, runtime_checkable

from danlu.data.examples import FieldLayout, Listed, Writer
from danlu.data.rows import BadField, BadRow, Example, Row
from danlu.data.sources import Source, Span

BATCH_CHARACTERS = 1 << 19
BATCH_ROWS = 4096
_IN_FLIGHT = 3  # one is read or written while the tokenizer's threads work on the others

Encoded = list[Example] | BadField


@runtime_checkable
class RowsEncoder(Protocol):
    """Encodes many rows at once, in any thread; each row gives examples or a BadField.

    An encoder whose examples are much larger than its rows (pictures) says by `rows_at_once` how many it wants.
    """

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]: ...


Encode = RowsEncoder | Callable[[Mapping[str, object]], Iterable[Example]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What a unit of work left in its folder."""

    num_examples: int
    layouts: Mapping[str, FieldLayout]
    skipped: Listed
    truncated: Listed
    files: tuple[tuple[str, int], ...]
    """the files in their order, and how many examples each gave"""
    joined: bool
    """True when the first example continues the last one of the unit before."""


def encode_spans(source: Source, spans: Sequence[Span], encode: Encode, folder: Path, on_bad: str) -> Written:
    """Encodes the rows of `spans` into `folder`.

    Raises:
        DataError: a row that cannot be used, unless `on_bad` is `skip`.
        OSError: the folder cannot be written.
    """
    writer = Writer(folder)
    skipped, truncated = _Lister(), _Lister()
    first_joined = False
    files: list[tuple[str, int]] = []

    def handle_bad(bad: BadRow) -> None:
        if on_bad == "refuse":
            raise bad.error()
        skipped.add(bad.listed())

    rows_at_once = getattr(encode, "rows_at_once", BATCH_ROWS)
    for row, encoded in _encoded(_readable(source, spans), _encoder_of(encode), handle_bad, rows_at_once):
        if isinstance(encoded, BadField):
            handle_bad(encoded.in_row(row))
            continue
        before = writer.num_examples
        for example in encoded:
            if "truncated" in example:
                place = {"file": row.file, "row": row.number, "field": "", "problem": "was cut to the context"}
                truncated.add(place)
                example = {name: value for name, value in example.items() if name != "truncated"}
            joined = row.part.joined and skipped.last != (row.file, row.number - 1)
            first_joined = joined if writer.num_examples == 0 else first_joined
            writer.add(example, joined=joined)
        files.append((row.file, writer.num_examples - before))
        files[-2:] = summed(files[-2:])
    writer.close()
    return Written(
        num_examples=writer.num_examples,
        layouts=writer.layouts,
        skipped=skipped.listed(),
        truncated=truncated.listed(),
        files=tuple(files),
        joined=first_joined,
    )


def summed(files: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Counts by file, neighbours of one name together."""
    return [(name, sum(count for _, count in run)) for name, run in groupby(files, key=itemgetter(0))]


class _Lister:
    """Counts rows and keeps the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.rows: list[Mapping[str, object]] = []
        self.last: tuple[object, object] | None = None

    def add(self, row: Mapping[str, object]) -> None:
        self.count += 1
        self.last = (row["file"], row["row"])
        if len(self.rows) < Listed.LIMIT:
            self.rows.append(row)

    def listed(self) -> Listed:
        return Listed(count=self.count, rows=tuple(self.rows))


def _readable(source: Source, spans: Sequence[Span]) -> Iterator[Row | BadRow]:
    """Good and bad rows in their order."""
    for span in spans:
        waiting: list[BadRow] = []
        for row in source.rows(span, waiting.append):
            yield from waiting
            waiting.clear()
            yield row
        yield from waiting


def _encoded(
    found: Iterable[Row | BadRow],
    encode: Callable[[Sequence[Row]], list[Encoded]],
    handle_bad: Callable[[BadRow], None],
    rows_at_once: int,
) -> Iterator[tuple[Row, Encoded]]:
    """Rows with what they gave, in order; bad rows go to `handle_bad` in their turn."""
    with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="danlu-encode") as pool:
        flying: deque[tuple[list[Row | BadRow], Future[list[Encoded]]]] = deque()
        try:
            for batch in _batches(found, rows_at_once):
                flying.append((batch, pool.submit(encode, [row for row in batch if isinstance(row, Row)])))
                if len(flying) >= _IN_FLIGHT:
                    yield from _in_turn(*flying.popleft(), handle_bad)
            while flying:
                yield from _in_turn(*flying.popleft(), handle_bad)
        finally:
            for _, future in flying:
                future.cancel()


def _in_turn(
    batch: list[Row | BadRow], future: "Future[list[Encoded]]", handle_bad: Callable[[BadRow], None]
) -> Iterator[tuple[Row, Encoded]]:
    results = iter(future.result())
    for row in batch:
        if isinstance(row, BadRow):
            handle_bad(row)
        else:
            yield row, next(results)


def _batches(found: Iterable[Row | BadRow], rows_at_once: int) -> Iterator[list[Row | BadRow]]:
    batch: list[Row | BadRow] = []
    weight = 0
    for row in found:
        batch.append(row)
        if isinstance(row, Row):
            weight += _weight(row.fields)
        if weight >= BATCH_CHARACTERS or len(batch) >= rows_at_once:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def _weight(value: object) -> int:
    """About how many characters a value holds."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_weight, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_weight, value))
    return 8


def _encoder_of(encode: Encode) -> Callable[[Sequence[Row]], list[Encoded]]:
    if isinstance(encode, RowsEncoder):
        return encode.encode_rows

    def each(rows: Sequence[Row]) -> list[Encoded]:
        return [_judged(row) for row in rows]

    def _judged(row: Row) -> Encoded:
        try:
            return list(encode(row.fields))  # type: ignore[operator]
        except BadField as bad:
            return bad

    return each
