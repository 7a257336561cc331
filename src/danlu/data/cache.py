"""The cache: what was encoded once is mapped from disk, not encoded again."""

import dataclasses
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from danlu.core.errors import DataError
from danlu.data.config import DataConfig
from danlu.data.encoding import Encode, Encoded, Written, encode_spans, summed
from danlu.data.examples import Examples, Listed, Meta, concatenate, open_examples
from danlu.data.fingerprints import digest_of
from danlu.data.places import cache_folder, one_builder, telling_disk_troubles, written_aside
from danlu.data.pool import encode_in_processes
from danlu.data.rows import BadRow, Row
from danlu.data.sources import Source, SourceFile, Span

_VERSION = 1
_BYTES_PER_PROCESS = 24 * 1024 * 1024  # about what one process encodes in the time that it takes to start
_UNITS_PER_PROCESS = 4
_SMALLEST_UNIT_BYTES = 64 * 1024


class KeyedEncoder(Protocol):
    """Makes examples of rows; `key` names all that they depend on, the rows apart."""

    @property
    def key(self) -> str: ...

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]: ...


def encode_cached(
    source: Source,
    encode: Encode,
    *,
    key: str,
    folder: str | Path | None = None,
    workers: int | None = None,
    on_bad: str = "refuse",
    on_skip: Callable[[Mapping[str, object]], None] | None = None,
) -> Examples:
    """The examples that `encode` makes of `source`, memory-mapped; made only if the cache does not have them.

    Args:
        encode: an object with `encode_rows(rows)`, or a function that gives the examples of one row's fields; raises
            `BadField` about a row that cannot be used.
        key: names all that `encode` depends on; with the content of the source it names the cached examples.
        folder: the cache; None means the source's.
        workers: processes; None chooses from the cores and the size. The result is the same.
        on_bad: `refuse` stops at the first bad row, `skip` goes on without it.
        on_skip: is told each row skipped (the first 1,000), also when the examples were made before.

    When several processes ask for the same at once, one makes it and the others wait. What is written appears under
    its name only when it is complete. Memory does not grow with the data.

    Raises:
        DataError: a bad row under `refuse`; a source without a single usable row.
        RunError: the disk is full. RequestError: the cache cannot be written.
    """
    root = cache_folder(folder) if folder is not None else source.cache
    fingerprint = digest_of("examples", _VERSION, source.fingerprint, key)
    place = root / "examples" / fingerprint
    sources = {file.name: file.source for file in source.files}
    examples = _opened(place, sources)
    if examples is None:
        with telling_disk_troubles(root), one_builder(place):
            examples = _opened(place, sources) or _build(source, encode, place, workers, on_bad)
    examples.sources = sources
    if examples.skipped.count and on_bad == "refuse":
        raise _refusal(examples.skipped)
    if on_skip is not None:
        for row in examples.skipped.rows:
            on_skip(row)
    return examples


def _opened(place: Path, sources: Mapping[str, int]) -> Examples | None:
    """The examples that are there; not those of an older version where it matters which file each came from."""
    examples = open_examples(place)
    return None if examples is not None and any(sources.values()) and not examples.meta.files else examples


def encode_as_told(
    source: Source, encoder: KeyedEncoder, data: DataConfig, skipped: list[Mapping[str, object]]
) -> Examples:
    """`encode_cached` with the recipe's `data` section; the rows that it skips are added to `skipped`.

    An encoder with a true `whole_documents` gets each document in one piece.
    """
    if getattr(encoder, "whole_documents", False):
        source = dataclasses.replace(source, whole_documents=True)
    return encode_cached(
        source,
        encoder,
        key=encoder.key,
        folder=data.cache,
        workers=data.workers,
        on_bad=data.on_bad,
        on_skip=skipped.append,
    )


def _build(source: Source, encode: Encode, place: Path, workers: int | None, on_bad: str) -> Examples:
    num_processes = _num_processes(source, encode, workers)
    with written_aside(place) as aside:
        if num_processes == 1:
            spans = [Span(file=file) for file in source.files]
            written = [encode_spans(source, spans, encode, aside, on_bad)]
        else:
            units = _units(source, num_processes * _UNITS_PER_PROCESS)
            shards = [aside / f"shard-{at:05d}" for at in range(len(units))]
            written = encode_in_processes(source, encode, units, shards, on_bad, num_processes)
            full = [(shard, done) for shard, done in zip(shards, written, strict=True) if done.num_examples]
            concatenate([(shard, done.layouts, done.joined) for shard, done in full], aside)
            for shard in shards:
                shard.rmdir()
        meta = _meta(source, place.name, written)
        meta.write(aside / "meta.json")
    return Examples(place)


def _meta(source: Source, fingerprint: str, written: Sequence[Written]) -> Meta:
    skipped, truncated = Listed(), Listed()
    for done in written:
        skipped, truncated = skipped.plus(done.skipped), truncated.plus(done.truncated)
    num_examples = sum(done.num_examples for done in written)
    num_examples -= sum(done.joined for done in written if done.num_examples)
    if num_examples == 0:
        why = f"all of its {skipped.count} rows are bad" if skipped.count else "it holds no rows"
        first = f"; the first: {_described(skipped.rows[0])}" if skipped.count else ""
        raise DataError(f"gives no examples, {why}{first}", where=source.spec, mend="Give a source with usable rows")
    layouts = next(done.layouts for done in written if done.num_examples)
    if any(done.layouts != layouts for done in written if done.num_examples):
        raise TypeError("examples of one source must agree in fields, types and shapes")
    files: list[tuple[str, int]] = []
    for done in written:
        (name, count), *rest = done.files or (("", 0),)
        files += [(name, count - done.joined), *rest]
    return Meta(
        fingerprint=fingerprint,
        num_examples=num_examples,
        fields=layouts,
        skipped=skipped,
        truncated=truncated,
        files=tuple(entry for entry in summed(files) if entry[1]),
    )


def _num_processes(source: Source, encode: Encode, workers: int | None) -> int:
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, source.num_bytes // _BYTES_PER_PROCESS)
    if workers <= 1:
        return 1
    try:
        pickle.dumps(encode)
    except (pickle.PicklingError, AttributeError, TypeError):
        return 1  # a function made on the spot cannot be sent to another process
    return workers


def _units(source: Source, num_units: int) -> list[list[Span]]:
    """Runs of neighbouring files, or of rows of a large file, of about equal size in bytes."""
    limit = max(source.num_bytes / num_units, _SMALLEST_UNIT_BYTES)
    units: list[list[Span]] = []
    size = float("inf")
    for file in source.files:
        spans = _spans(source, file, limit)
        for span in spans:
            num_bytes = file.num_bytes / len(spans)
            if size + num_bytes / 2 > limit:
                units.append([])
                size = 0.0
            units[-1].append(span)
            size += num_bytes
    return units


def _spans(source: Source, file: SourceFile, limit: float) -> list[Span]:
    """The whole file, or spans of about `limit` bytes when it is much larger. Finding them reads it once."""
    if file.num_bytes < 2 * limit:
        return [Span(file=file)]
    num_rows = source.num_rows(file)
    num_spans = max(1, min(round(file.num_bytes / limit), num_rows))
    bounds = [num_rows * at // num_spans for at in range(num_spans)]
    return [Span(file=file, start=start, stop=stop) for start, stop in zip(bounds, [*bounds[1:], None], strict=True)]


def _refusal(skipped: Listed) -> DataError:
    row = skipped.rows[0]
    bad = BadRow(
        file=str(row["file"]), number=int(str(row["row"])), field=str(row["field"]), problem=str(row["problem"])
    )
    return bad.error()


def _described(row: Mapping[str, object]) -> str:
    return f"{row['file']}, row {row['row']}, {row['field'] or 'the row'} {row['problem']}"
