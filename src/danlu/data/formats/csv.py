"""Comma-separated values, with a header line; tabs, semicolons and bars are recognised."""

import csv
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

from danlu.core.errors import DataError
from danlu.data.formats.base import Format, Found, opened
from danlu.data.rows import BadRow, Row


class CsvFormat(Format):
    """The header names the columns; the separator is the one of `,` tab `;` `|` that it holds most often.

    Rows are numbered as a spreadsheet does: the header is row 1. A row with more or fewer values than the header has
    is bad, as is a quote that never closes. Every value is text; an empty one is "".
    """

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default of 128 KiB is less than a long document
        with opened(path) as file:
            lines = _Lines(file)
            header_line = next(lines, "")
            if not header_line.strip():
                return
            separator = _separator(header_line)
            header = next(csv.reader([header_line], delimiter=separator))
            _check_header(header, name)
            records = _records(csv.reader(lines, delimiter=separator, strict=True), lines, header, name)
            yield from itertools.islice(records, start, None)


class _Lines:
    """Decoded lines; a line that is not UTF-8 is let through with marks, and remembered until asked."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._first = True
        self._broken: str | None = None

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._file)
        if self._first:
            self._first, line = False, line.removeprefix(b"\xef\xbb\xbf")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self._broken = f"is not UTF-8 (byte 0x{line[error.start]:02x} at {error.start} of its line)"
            return line.decode("utf-8", errors="surrogateescape")

    def take_broken(self) -> str | None:
        broken, self._broken = self._broken, None
        return broken


def _records(reader: Iterator[list[str]], lines: _Lines, header: list[str], name: str) -> Iterator[Found]:
    number = 1
    while True:
        number += 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.take_broken()
            yield BadRow(file=name, number=number, field="", problem=f"is not CSV ({error})", mend="Mend its quotes")
            continue
        broken = lines.take_broken()
        if broken:
            yield BadRow(file=name, number=number, field="", problem=broken, mend="Save the file as UTF-8")
        elif len(values) == len(header):
            yield Row(name, number, dict(zip(header, values, strict=True)))
        elif values:
            problem = f"has {len(values)} values where the header has {len(header)}"
            mend = "Put quotes round values that hold a separator or a line break"
            yield BadRow(file=name, number=number, field="", problem=problem, mend=mend)


def _separator(header_line: str) -> str:
    return max(",\t;|", key=header_line.count)


def _check_header(header: list[str], name: str) -> None:
    double = {column for column in header if header.count(column) > 1}
    if double:
        raise DataError(f"two columns are named {sorted(double)[0]!r}", where=f"{name}, row 1", mend="Rename one")
