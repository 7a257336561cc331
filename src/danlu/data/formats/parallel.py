"""Parallel text: two files or more that translate each other line by line, written as one path: `train.{en,de}`."""

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, ClassVar

from danlu.data.formats.base import Format, Found, bad_encoding, opened
from danlu.data.rows import BadRow, Row

_BRACES = re.compile(r"\{([^{},/]+(?:,[^{},/]+)+)\}")


class ParallelFormat(Format):
    """Line n of each file makes row n; the words in braces name the columns. Found by the braces, not by an ending.

    An empty line is an empty text. Files of different lengths are not translations of each other: the row after the
    last line of the shortest is bad, and is the last.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        files = sides(path)
        with ExitStack() as stack:
            readers = [stack.enter_context(opened(file)) for file in files.values()]
            numbered = zip(itertools.count(1), itertools.zip_longest(*readers))
            for number, lines in itertools.islice(numbered, start, None):
                yield _row(name, number, dict(zip(files, lines, strict=True)))
                if None in lines:
                    return

    def count(self, path: Path, name: str, part_bytes: int | None) -> int:
        counts = []
        for file in sides(path).values():
            with opened(file) as reader:
                counts.append(_num_lines(reader))
        return min(counts) + (len(set(counts)) > 1)


def sides(path: Path) -> dict[str, Path]:
    """`train.{en,de}` → {"en": train.en, "de": train.de}; empty when there are no braces in the path."""
    found = _BRACES.search(str(path))
    if found is None:
        return {}
    start, end = found.span()
    return {word: Path(f"{str(path)[:start]}{word}{str(path)[end:]}") for word in found[1].split(",")}


def _row(name: str, number: int, lines: dict[str, bytes | None]) -> Found:
    fields: dict[str, object] = {}
    for column, line in lines.items():
        if line is None:
            longer = next(other for other, text in lines.items() if text is not None)
            problem = f"is missing: {column} ends before {longer} does"
            mend = "Give files that translate each other line by line"
            return BadRow(file=name, number=number, field=column, problem=problem, mend=mend)
        try:
            fields[column] = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            return bad_encoding(name, number, error, column)
    return Row(name, number, fields)


def _num_lines(reader: IO[bytes]) -> int:
    return sum(1 for _ in reader)
