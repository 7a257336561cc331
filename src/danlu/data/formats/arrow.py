"""Arrow streams: what `datasets` keeps of a hub data set on disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from danlu.core.errors import DataError
from danlu.data.formats.base import Format, Found, rows_of

BATCH_ROWS = 256


class ArrowFormat(Format):
    """Memory-mapped, so that a data set may be larger than memory."""

    suffixes: ClassVar[tuple[str, ...]] = (".arrow",)

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        first = 0
        for batch in _batches(path, name):
            for at in range(0, batch.num_rows, BATCH_ROWS):
                yield from rows_of(batch.slice(at, BATCH_ROWS), name, first + at, start)
            first += batch.num_rows

    def count(self, path: Path, name: str, part_bytes: int | None) -> int:
        return sum(batch.num_rows for batch in _batches(path, name))


def _batches(path: Path, name: str) -> Iterator[Any]:
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as mapped:
            try:
                yield from pyarrow.ipc.open_stream(mapped)
            except pyarrow.ArrowInvalid:
                file = pyarrow.ipc.open_file(mapped)
                yield from (file.get_batch(at) for at in range(file.num_record_batches))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"is no sound Arrow file ({error})", where=name, mend="Fetch or write it again") from error
