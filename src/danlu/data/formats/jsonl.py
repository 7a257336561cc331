"""JSON lines, and a JSON file that holds one list of objects."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

from danlu.core.errors import DataError
from danlu.data.formats.base import Format, Found, bad_encoding, opened
from danlu.data.rows import BadRow, Row


class JsonlFormat(Format):
    """One object a line; empty lines count as lines but are no rows. `.json` may also hold one list (read whole)."""

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".json")

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        if ".json" in path.suffixes and _starts_a_list(path):
            yield from itertools.islice(_listed(path, name), start, None)
            return
        with opened(path) as file:
            for number, line in itertools.islice(_lines(file), start, None):
                yield _parsed(name, number, line)

    def count(self, path: Path, name: str, part_bytes: int | None) -> int:
        if ".json" in path.suffixes and _starts_a_list(path):
            return super().count(path, name, part_bytes)
        with opened(path) as file:
            return sum(1 for _ in _lines(file))


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.isspace():
            yield number, line


def _starts_a_list(path: Path) -> bool:
    with opened(path) as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _parsed(name: str, number: int, line: bytes) -> Found:
    try:
        return _object(name, number, json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return bad_encoding(name, number, error)
    except (ValueError, RecursionError) as error:
        return BadRow(file=name, number=number, field="", problem=f"is not JSON ({error})", mend="Mend the line")


def _object(name: str, number: int, value: object) -> Found:
    if isinstance(value, dict):
        return Row(name, number, value)
    problem = f"holds a {type(value).__name__}, not an object with named fields"
    return BadRow(file=name, number=number, field="", problem=problem, mend='Write it as {"text": ...}')


def _listed(path: Path, name: str) -> Iterator[Found]:
    with opened(path) as file:
        content = file.read()
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"is not JSON ({error})", where=name, mend="Mend the file, or write one object a line"
        ) from error
    for number, value in enumerate(values, 1):
        yield _object(name, number, value)
