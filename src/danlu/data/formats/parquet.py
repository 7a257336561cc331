"""Parquet files."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from danlu.core.errors import DataError
from danlu.data.formats.base import COMPRESSIONS, Format, Found, opened, rows_of

BATCH_ROWS = 256


class ParquetFormat(Format):
    """Read in batches of rows; a file compressed once more from outside is unpacked into a temporary file."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        first = 0
        import pyarrow

        with _table(path, name) as table:
            batches = table.iter_batches(batch_size=BATCH_ROWS)
            while True:
                try:
                    batch = next(batches, None)
                except (pyarrow.ArrowException, OSError) as error:
                    raise _broken(name, error) from error
                if batch is None:
                    return
                yield from rows_of(batch, name, first, start)
                first += batch.num_rows

    def count(self, path: Path, name: str, part_bytes: int | None) -> int:
        with _table(path, name) as table:
            return table.metadata.num_rows


def _table(path: Path, name: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix not in COMPRESSIONS:
            return pyarrow.parquet.ParquetFile(path, memory_map=True)
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the ParquetFile that reads it
        with opened(path) as file:
            while piece := file.read(1 << 20):
                unpacked.write(piece)
        unpacked.seek(0)
        return pyarrow.parquet.ParquetFile(unpacked)
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> DataError:
    return DataError(f"is no sound Parquet file ({error})", where=name, mend="Fetch or write it again")
