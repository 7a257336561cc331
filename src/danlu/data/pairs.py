"""Texts with their translations become examples: `input_ids` (S,) of the source, `labels` (T,) of the target.

Both end as the tokenizer ends a text. Where translations are to be judged, `reference` holds the target's own UTF-8
bytes, since what a tokenizer gives back need not be what it was given.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from danlu.core.errors import RequestError
from danlu.data.columns import Columns, find_roles
from danlu.data.examples import Examples
from danlu.data.fingerprints import digest_of
from danlu.data.rows import BadField, Example, Row
from danlu.data.sources import Source
from danlu.data.text import Codec, Encoded, judged, text_in

_VERSION = 1
_ALIASES: dict[str, tuple[str, ...]] = {
    "source": ("source", "src", "source_text", "msgid"),
    "target": ("target", "tgt", "target_text", "translation", "msgstr"),
}
_ONE_AT_A_TIME = threading.Lock()  # tokenizers that are not fast switch between source and target inside


def pair_columns(
    fields: Mapping[str, object], *, told: Mapping[str, str], where: str, answered: bool = True
) -> Columns:
    """Which columns hold the text and, if `answered`, its translation; `en` also finds en-US, as in a TMX file.

    Raises:
        RequestError, DataError: as `columns.find_roles`.
    """
    flat = flattened(fields)
    needed = ("source", "target") if answered else ("source",)
    known = {role: _language(flat, column) for role, column in told.items() if answered or role != "target"}
    by_role = find_roles(flat, needed=needed, optional=(), aliases=_ALIASES, told=known, where=where)
    return Columns(kind="text", by_role=by_role)


def flattened(fields: Mapping[str, object]) -> Mapping[str, object]:
    """A row as Hugging Face's translation sets have it, `{"translation": {"en": ..., "de": ...}}`, as plain columns."""
    inner = fields.get("translation")
    return inner if isinstance(inner, Mapping) else fields


def _language(fields: Mapping[str, object], told: str) -> str:
    """The column of that name, else the only one of that language, whatever the country."""
    alike = [name for name in fields if str(name).lower().replace("_", "-").partition("-")[0] == told.lower()]
    return str(alike[0]) if told not in fields and len(alike) == 1 else told


def pair_texts(source: Source, columns: Columns) -> Iterator[str]:
    """Both sides of every good row, for a tokenizer to be trained on."""
    for file in source.files:
        for row in source.rows(file, on_bad=lambda _bad: None):
            for column in columns.by_role.values():
                with contextlib.suppress(BadField):
                    yield _text(row.fields, column)


def _text(fields: Mapping[str, object], column: str) -> str:
    text = text_in(fields=flattened(fields), column=column).strip()
    if not text:
        raise BadField(column, "holds no text", "Fill it, or leave the pair out")
    return text


class PairEncoder:
    """Turns rows into examples, many at a time; without a target column, the source alone.

    `prefix` stands before every source text (T5's "translate English to German: "). A side of more than `context`
    tokens is a bad row, since what is cut off on one side is not what is cut off on the other; `long: truncate` cuts
    it all the same.
    """

    def __init__(
        self,
        tokenizer: Any,
        columns: Columns,
        *,
        context: int,
        long: str = "auto",
        prefix: str = "",
        referenced: bool = False,
    ) -> None:
        if long == "split":
            mend = "Choose truncate or refuse"
            raise RequestError("a text and its translation cannot be split", where="data.long", mend=mend)
        self.columns, self.context, self.long, self.prefix = columns, context, long, prefix
        self.referenced = referenced
        self._source, self._target = Codec(tokenizer), Codec(AsTarget(tokenizer))
        self._fast = bool(getattr(tokenizer, "is_fast", False))

    @property
    def key(self) -> str:
        """Names all that the examples depend on, the rows apart."""
        roles, options = sorted(self.columns.by_role.items()), (self.context, self.long, self.prefix, self.referenced)
        return digest_of("pairs", _VERSION, self._source.key, self._target.key, roles, options)

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """For each row its example, or what is wrong with it."""
        found = [judged(self._read, row) for row in rows]
        good = [texts for texts in found if not isinstance(texts, BadField)]
        sources = iter(self._ids(self._source, [self.prefix + texts[0] for texts in good]))
        targets = iter(self._ids(self._target, [texts[1] for texts in good if len(texts) == 2]))
        return [
            texts if isinstance(texts, BadField) else self._example(texts, [next(sources)], targets) for texts in found
        ]

    def one(self, fields: Mapping[str, object]) -> Example:
        """The example of one row's fields.

        Raises:
            BadField: the row cannot be used.
        """
        encoded = self.encode_rows([Row("", 0, fields)])[0]
        if isinstance(encoded, BadField):
            raise encoded
        return encoded[0]

    def _read(self, fields: Mapping[str, object]) -> list[str]:
        return [_text(fields, self.columns[role]) for role in ("source", "target") if role in self.columns.by_role]

    def _ids(self, codec: Codec, texts: list[str]) -> list[np.ndarray]:
        if self._fast:
            return codec.ids(texts)
        with _ONE_AT_A_TIME:
            return codec.ids(texts)

    def _example(self, texts: list[str], parts: list[np.ndarray], targets: Iterator[np.ndarray]) -> Encoded:
        example: dict[str, np.ndarray] = {}
        parts = [*parts, next(targets)] if len(texts) == 2 else parts
        for name, role, codec, ids in zip(
            ("input_ids", "labels"), ("source", "target"), (self._source, self._target), parts, strict=False
        ):
            room = self.context - len(codec.prefix) - len(codec.suffix)
            if len(ids) > room and (self.long != "truncate" or room < 1):
                length = len(ids) + self.context - room
                mend = f"Set data.context to {length} or more, or data.long: truncate"
                problem = f"is {length} tokens long, the context holds {self.context}"
                return BadField(self.columns[role], problem, mend)
            if len(ids) > room:
                example["truncated"] = np.asarray(True)
            example[name] = np.concatenate([codec.prefix, ids[:room], codec.suffix])
        if self.referenced:
            example["reference"] = np.frombuffer(texts[1].encode(), dtype=np.uint8)
        return [example]


class AsTarget:
    """A tokenizer as it treats the texts to be written: some have other pieces or another language's mark for them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: Any, **options: Any) -> Any:
        return self.tokenizer(text_target=text, **options)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # asked for before it is there, by pickle
            raise AttributeError(name)
        return getattr(self.tokenizer, name)


class Pairs:
    """Encoded pairs whose length is that of both sides; `translated` of them, evenly spread, or all, bear `judged`."""

    def __init__(self, examples: Examples, *, translated: int | None = 0) -> None:
        self._examples = examples
        total = len(examples)
        number = total if translated is None else min(translated, total)
        self.judged_N = np.zeros(total, dtype=bool)
        self.judged_N[np.linspace(0, total - 1, num=number, dtype=int)] = True
        self.lengths = examples.lengths_of("input_ids") + examples.lengths_of("labels")
        self.fingerprint = digest_of("pairs", examples.fingerprint, number)

    def __len__(self) -> int:
        return len(self._examples)

    def column(self, name: str) -> np.ndarray:
        """A number of each pair."""
        return self._examples.column(name)

    def __getitem__(self, at: int) -> Example:
        return {**self._examples[at], "judged": np.asarray(self.judged_N[at])}
