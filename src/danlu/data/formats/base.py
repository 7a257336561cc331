"""Format: how one kind of file becomes rows. A new kind is a new file here, found by its path."""

import contextlib
import gzip
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from danlu.core.errors import DataError
from danlu.data.rows import BadRow, Row

COMPRESSIONS = (".gz", ".zst")
Found = Row | BadRow


class Format(ABC):
    """The parent of all formats. `suffixes` are the file endings, the compressed ones (.gz, .zst) come for free.

    `documents` is True when a file is a text of its own rather than a table of rows: a split into train and valid
    then never cuts through a file if it can be helped. `pictures` is True when a file is one picture.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    documents: ClassVar[bool] = False
    pictures: ClassVar[bool] = False

    @abstractmethod
    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        """The rows of the file at `path` in order; `name` is how people know the file.

        `part_bytes`: documents above this size come in parts (see `rows.Part`); None keeps them whole. The first
        `start` rows, bad ones counted, are passed over, with as little work as the format allows.
        """

    def count(self, path: Path, name: str, part_bytes: int | None) -> int:
        """The number of rows, bad ones included."""
        return sum(1 for _ in self.rows(path, name, part_bytes))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed when its name ends in .gz or .zst.

    Raises:
        DataError: the file is missing, unreadable, or its compressed content is broken (also while reading).
    """
    try:
        with _decompressed(path) as file:
            yield file
    except (EOFError, gzip.BadGzipFile) as error:
        raise _broken(path, error) from error
    except OSError as error:
        if error.filename is not None and Path(error.filename) != path:
            raise
        raise DataError(f"cannot be read ({error.strerror or error})", where=str(path)) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("zlib", "zstandard", "zstd"):
            raise
        raise _broken(path, error) from error


@contextlib.contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            yield cast(IO[bytes], file)
    elif path.suffix == ".zst":
        with path.open("rb") as raw, io.BufferedReader(_ZstdReader(raw), 1 << 20) as file:
            yield cast(IO[bytes], file)
    else:
        with path.open("rb", buffering=1 << 20) as file:
            yield file


class _ZstdReader(io.RawIOBase):
    """Decompresses frame after frame; unlike zstandard's own reader it tells when the last one is cut short."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._open = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._open()
        self._begun = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = self._open(), False
            packed = packed or self._raw.read(1 << 17)
            if not packed:
                if self._begun:
                    raise EOFError("the file ends before its content does")
                return 0
            self._begun = True
            self._ready = self._frame.decompress(packed)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(
        f"the compressed content is broken ({error})", where=str(path), mend="Fetch or compress the file again"
    )


def bad_encoding(name: str, number: int, error: UnicodeDecodeError, field: str = "") -> BadRow:
    """A row whose bytes are not UTF-8."""
    byte = error.object[error.start]
    return BadRow(
        file=name,
        number=number,
        field=field,
        problem=f"is not UTF-8 (byte 0x{byte:02x} at {error.start})",
        mend="Save the file as UTF-8",
    )


def rows_of(batch: Any, name: str, first: int, start: int) -> Iterator[Row]:
    """The rows of an Arrow batch whose first is row `first` of the file, counted from 0; those before `start` not."""
    passed = min(max(start - first, 0), batch.num_rows)
    for at, fields in enumerate(batch.slice(passed).to_pylist(), first + passed + 1):
        yield Row(name, at, fields)
