"""Labels: which column holds them, what they mean, which there are, and a row's label as an array.

That is the number of its class (int64 scalar), a mark for each class (uint8, (C,)) or a number (float32 scalar).
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from danlu.core.errors import DataError, nearest
from danlu.data.columns import Columns, find_roles
from danlu.data.fingerprints import digest_of
from danlu.data.places import cache_folder, telling_disk_troubles, write_text_whole
from danlu.data.rows import BadField
from danlu.data.sources import Source

if TYPE_CHECKING:
    pass

Target = Literal["label", "labels", "number"]
"""one class a row, any number of classes a row, or a number"""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "text": (
        *("text", "sentence", "sentence1", "premise", "text1", "text_a", "question1", "question"),
        *("review", "review_text", "review text", "comment", "content", "body", "document", "message", "tweet"),
    ),
    "text_pair": ("text_pair", "sentence2", "hypothesis", "text2", "text_b", "question2", "answer"),
    "label": ("label", "labels", "target", "class", "category", "sentiment", "tags", "rating", "stars", "score", "y"),
}
"""Role -> column names that are understood without being told, the likeliest first; case does not matter."""

_VERSION = 1
_FEW = 20
MOST_LABELS = 10_000


def labelled_columns(
    fields: Mapping[str, object], *, told: Mapping[str, str], where: str, labelled: bool = True
) -> Columns:
    """The columns of text, perhaps a second text, and label; without `labelled` no label is asked for.

    Raises:
        RequestError: a role that does not exist. DataError: a column that is not there, or that nobody can guess.
    """
    if not labelled:
        told = {role: column for role, column in told.items() if role != "label"}
    text = _lone_text(fields, told)
    roles = find_roles(
        fields,
        needed=("text", "label") if labelled else ("text",),
        optional=("text_pair",),
        aliases=ALIASES,
        told={"text": text, **told} if text is not None else told,
        where=where,
    )
    return Columns(kind="text", by_role=roles)


def _lone_text(fields: Mapping[str, object], told: Mapping[str, str]) -> str | None:
    """The only column of text when none is named as such columns are."""
    if "text" in told or {str(name).lower() for name in fields} & set(ALIASES["text"]):
        return None
    others = {*told.values(), *(name for name in fields if str(name).lower() in ALIASES["label"])}
    texts = [str(name) for name, value in fields.items() if isinstance(value, str) and name not in others]
    return texts[0] if len(texts) == 1 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSet:
    """What the labels of a source are. `names` are sorted; `num_rows_of` counts the rows of each."""

    target: Target
    names: tuple[str, ...] = ()
    num_rows_of: Mapping[str, int] = dataclasses.field(default_factory=dict)


def scan_labels(
    source: Source,
    column: str,
    *,
    target: str,
    separator: str | None = None,
    cache: str | None = None,
    least: int = 2,
) -> LabelSet:
    """Reads the label column once and remembers what it found, by the source's content.

    `auto` takes lists (or, with a `separator`, separated names) for several labels a row, numbers of which one is not
    whole for numbers, and anything else for one label a row. Rows that cannot be used are passed over.

    Raises:
        DataError: there are fewer labels than `least`, or about as many different ones as rows.
    """
    root = cache_folder(cache)
    path = root / "labels" / f"{digest_of('labels', _VERSION, source.fingerprint, column, target, separator)}.json"
    found = _remembered(path)
    if found is None:
        found = _scan(source, column, target, separator, least)
        with telling_disk_troubles(root):
            write_text_whole(path, json.dumps(dataclasses.asdict(found)))
    return found


def _remembered(path: Path) -> LabelSet | None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return LabelSet(target=raw["target"], names=tuple(raw["names"]), num_rows_of=raw["num_rows_of"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _scan(source: Source, column: str, target: str, separator: str | None, least: int) -> LabelSet:
    names: Counter[str] = Counter()
    num_rows, lists, all_numbers, parts = 0, False, True, False
    for file in source.files:
        for row in source.rows(file, on_bad=lambda _bad: None):
            value = row.fields.get(column)
            lists |= isinstance(value, (list, tuple))
            number = _number(value)
            all_numbers &= number is not None or _is_empty(value)
            parts |= number is not None and not number.is_integer()
            if target != "number" and len(names) <= MOST_LABELS:
                names.update(set(_names(value, separator)))
            num_rows += 1
    if target == "auto":
        target = "labels" if lists or separator else "number" if parts and all_numbers else "label"
    if target == "number":
        return LabelSet(target="number")
    _check_names(names, num_rows, column, source.spec, least)
    ordered = sorted(names, key=_order)
    return LabelSet(
        target="labels" if target == "labels" else "label",
        names=tuple(ordered),
        num_rows_of={name: names[name] for name in ordered},
    )


def _check_names(names: Mapping[str, int], num_rows: int, column: str, where: str, least: int) -> None:
    if len(names) < least:
        needed = "; to tell apart takes two" if least == 2 else ""
        raise DataError(
            f"column {column!r} holds {len(names)} label{'' if len(names) == 1 else 's'}{needed}",
            where=where,
            mend="Name the right column in data.columns: {label: ...}, or add rows of other labels",
        )
    if len(names) > max(_FEW, num_rows / 2) or len(names) > MOST_LABELS:
        raise DataError(
            f"column {column!r} holds {len(names)} different labels in {num_rows} rows",
            where=where,
            mend="For numbers set task.target: number; for several labels in one text set task.separator",
        )


def _order(name: str) -> tuple[int, float, str]:
    """Whole numbers by their size, and before the rest."""
    return (0, int(name), name) if name.lstrip("-").isdecimal() else (1, 0, name)


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value  # the last: NaN


def _number(value: object) -> float | None:
    """The value as a finite number, when it is one or reads like one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _names(value: object, separator: str | None) -> list[str]:
    """The labels that a value holds, as text: true, 3 and 3.0 become "true", "3" and "3"."""
    if isinstance(value, (list, tuple)):
        return [name for entry in value for name in _names(entry, None)]
    if _is_empty(value):
        return []
    if isinstance(value, str) and separator:
        return [name for part in value.split(separator) if (name := part.strip())]
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, float) and value.is_integer():
        return [str(int(value))]
    return [str(value).strip()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelReader:
    """Reads a row's label: `names` are the classes that the model knows, in their order."""

    column: str
    target: Target
    names: tuple[str, ...] = ()
    separator: str | None = None

    def read(self, fields: Mapping[str, object]) -> np.ndarray:
        """The class's number, a mark for each class, or the number.

        Raises:
            BadField: there is no label, it is none of `names`, or it is no number.
        """
        if self.column not in fields:
            raise BadField(self.column, "is missing", f"Fill it ({nearest(self.column, map(str, fields))}?)")
        value = fields[self.column]
        if self.target == "number":
            return np.asarray(self._as_number(value), dtype=np.float32)
        names = _names(value, self.separator)
        places = [self._place(name) for name in names]
        if self.target == "labels":
            marks_C = np.zeros(len(self.names), dtype=np.uint8)
            marks_C[places] = 1
            return marks_C
        if len(places) != 1:
            problem = f"holds {len(places)} labels, and one was asked for" if places else "holds no label"
            raise BadField(self.column, problem, "Fill it" if not places else "Set task.target: labels")
        return np.asarray(places[0], dtype=np.int64)

    def _place(self, name: str) -> int:
        if name not in self.names:
            near = nearest(name, self.names)
            raise BadField(
                self.column,
                f"holds the label {name!r}, which the training data do not have",
                f"{near}? Correct it, or train with rows of it" if near.startswith("Did") else near,
            )
        return self.names.index(name)

    def _as_number(self, value: object) -> float:
        number = _number(value)
        if number is None:
            problem = "holds no number" if _is_empty(value) else f"is {value!r}, not a number"
            raise BadField(self.column, problem, "Write a number")
        return number
