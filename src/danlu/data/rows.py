"""The words of the data room: a row of a file, a row that cannot be used, an example."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from danlu.core.errors import DataError

Example = Mapping[str, np.ndarray]
"""What a model may learn from, by field; a scalar is an array without dimensions."""


class Part(NamedTuple):
    """Which part of its document a row is: large text files come in parts of some KiB, so that memory stays flat."""

    first: bool = True
    last: bool = True
    joined: bool = False
    """True when the row read before this one holds the text directly before."""


WHOLE = Part()


class Row(NamedTuple):
    """One row of a file. `number` counts as an editor or a spreadsheet does, from 1, a header line included."""

    file: str
    number: int
    fields: Mapping[str, object]
    part: Part = WHOLE


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be used, and why. `field` is empty when no single field is at fault."""

    file: str
    number: int
    field: str
    problem: str
    mend: str = "Mend it"

    def error(self) -> DataError:
        """The refusal of this row."""
        place = f"{self.file}, row {self.number}" + (f", field {self.field}" if self.field else "")
        return DataError(self.problem, where=place, mend=f"{self.mend}, or set data.on_bad: skip to go on without it")

    def listed(self) -> dict[str, object]:
        """What the journal lists of a skipped row."""
        return {"file": self.file, "row": self.number, "field": self.field, "problem": self.problem}


class BadField(Exception):  # noqa: N818 - a judgement on the data, caught where the row is known
    """What an encoder raises about a field of the row it is given; `problem` and `mend` have no full stop."""

    def __init__(self, field: str, problem: str, mend: str = "Mend it") -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem, self.mend = field, problem, mend

    def in_row(self, row: Row) -> BadRow:
        return BadRow(file=row.file, number=row.number, field=self.field, problem=self.problem, mend=self.mend)
