"""Interaction tables as recommender research keeps them: RecBole's atomic files, and MovieLens' `::` files."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, ClassVar

from danlu.core.errors import DataError
from danlu.data.formats.base import COMPRESSIONS, Format, Found, opened
from danlu.data.rows import BadRow, Row

MOVIELENS: dict[int, tuple[str, ...]] = {
    3: ("item", "title", "genres"),
    4: ("user", "item", "rating", "timestamp"),
    5: ("user", "gender", "age", "occupation", "zip"),
}
"""number of values in a line -> what they are: movies.dat, ratings.dat, users.dat"""


class SeparatedFormat(Format):
    """Lines of values between separators that no quote can hide; every value is text, and rows are counted as lines.

    `.inter` and `.item` hold tabs and a header such as `user_id:token`, whose type is left out of the column's name.
    `.dat` holds `::` and no header: its columns are told by their number, and it may be Latin-1, as MovieLens' is.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".inter", ".item", ".dat")

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        bare = path.with_suffix("") if path.suffix in COMPRESSIONS else path
        with opened(path) as file:
            numbered: Iterator[tuple[int, str]] = (
                (number, line) for number, line in enumerate(_lines(file), 1) if line
            )
            first = next(numbered, None)
            if first is None:
                return
            if bare.suffix == ".dat":
                separator, header = "::", _movielens(first[1].split("::"), name)
                numbered = itertools.chain([first], numbered)
            else:
                separator, header = "\t", [column.partition(":")[0] for column in first[1].split("\t")]
            for number, line in itertools.islice(numbered, start, None):
                yield _row(line.split(separator), header, name, number)


def _lines(file: IO[bytes]) -> Iterator[str]:
    for line in file:
        try:
            yield line.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n")
        except UnicodeDecodeError:
            yield line.decode("latin-1").rstrip("\r\n")


def _movielens(values: Sequence[str], name: str) -> Sequence[str]:
    if len(values) not in MOVIELENS:
        problem = f"its first row has {len(values)} values between '::', where MovieLens has 3, 4 or 5"
        raise DataError(problem, where=f"{name}, row 1", mend="Give user::item::rating::timestamp, or a CSV file")
    return MOVIELENS[len(values)]


def _row(values: Sequence[str], header: Sequence[str], name: str, number: int) -> Found:
    if len(values) == len(header):
        return Row(name, number, dict(zip(header, values, strict=True)))
    problem = f"has {len(values)} values where {len(header)} belong ({', '.join(header)})"
    return BadRow(file=name, number=number, field="", problem=problem, mend="Complete the row")
