"""Queries with the documents that answer them become examples, each text between the tokenizer's special tokens.

An example has `input_ids` (the tokens of all its texts, one after the other), `lengths` (of each text: the query, the
document, then the negatives; 0 where a row has fewer of these), `keys` (of each text, equal for equal texts; -1 where
there is none) and `shown` (UTF-8 of a JSON list: query, document, slice; long ones cut), which is for reading only.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from danlu.core.errors import RequestError
from danlu.data.columns import Columns, find_roles
from danlu.data.fingerprints import digest_of
from danlu.data.rows import BadField, Example, Row
from danlu.data.text import Codec, Encoded, judged, text_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERSION = 1
NO_TEXT = -1
SHOWN_CHARACTERS = 400

ALIASES: dict[str, tuple[str, ...]] = {
    "query": ("query", "question", "anchor", "search", "prompt", "text"),
    "document": ("document", "positive", "passage", "answer", "code", "content", "body", "text"),
    "negative": ("negative", "negatives", "hard_negative", "hard_negatives"),
    "id": ("id", "_id", "document_id", "doc_id"),
    "slice": ("slice", "module", "domain", "language"),
}
"""Role -> column names that are understood without being told; case does not matter."""
TEXTS = ("query", "document", "negative")
Framed = tuple[np.ndarray, bool]


def pair_columns(fields: Mapping[str, object], *, told: Mapping[str, str], where: str) -> Columns:
    """The columns of query and document, perhaps of negatives, id and slice.

    Raises:
        RequestError: a role that does not exist. DataError: a column that is not there, or that nobody can guess.
    """
    more = ("negative", "id", "slice")
    roles = find_roles(fields, needed=("query", "document"), optional=more, aliases=ALIASES, told=told, where=where)
    return Columns(kind="text", by_role=roles)


def lone_columns(role: str, fields: Mapping[str, object], *, told: Mapping[str, str], where: str) -> Columns:
    """The column of `role` alone (the query of what is asked, the document of a corpus), and perhaps an id.

    A lone column of text needs no name. What is told of other columns, or of columns that are not here, is left aside.
    """
    told = {part: column for part, column in told.items() if part in (role, "id") and column in fields}
    texts = [str(name) for name, value in fields.items() if isinstance(value, str)]
    if role not in told and len(texts) == 1:
        told[role] = texts[0]
    roles = find_roles(fields, needed=(role,), optional=("id",), aliases=ALIASES, told=told, where=where)
    return Columns(kind="text", by_role=roles)


def text_columns(columns: Columns) -> Columns:
    """The columns of text alone: what a tokenizer is trained on."""
    return Columns(kind=columns.kind, by_role={role: columns[role] for role in TEXTS if role in columns.by_role})


def key_of(text: str) -> int:
    """A 62-bit hash: not negative, so that it cannot be taken for `NO_TEXT` or an ignored label."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 2


class TextFramer:
    """Texts to tokens between special tokens, behind a prefix; longer than `context`, they lose their end.

    Raises (when made):
        RequestError: `long` is `split`, or the context has no room.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, context: int, long: str) -> None:
        if long == "split":
            problem = "a document is found as a whole, it cannot be split"
            raise RequestError(problem, where="data.long", mend="Choose truncate or refuse")
        self._codec, self._context, self._long = Codec(tokenizer), context, long
        self._room = context - len(self._codec.prefix) - len(self._codec.suffix)
        if self._room < 1:
            raise RequestError(f"{context} tokens have no room for a text", where="data.context", mend="Raise it")

    @property
    def key(self) -> str:
        """Names all that the tokens depend on, the texts apart."""
        return digest_of(self._codec.key, self._context, self._long)

    def frame(self, texts: Sequence[str]) -> list[Framed]:
        """For each text its tokens, and whether it was cut."""
        return [
            (np.concatenate([self._codec.prefix, ids[: self._room], self._codec.suffix]), len(ids) > self._room)
            for ids in self._codec.ids(list(texts))
        ]

    def check(self, column: str, cut: bool) -> None:
        """Raises BadField where a text was cut that must not be."""
        if cut and self._long == "refuse":
            mend = "Raise data.context, or set data.long: truncate"
            raise BadField(column, f"is longer than the context of {self._context} tokens", mend)


class PairEncoder:
    """Turns rows into examples, many at a time, with exactly `negatives` places for negatives in each.

    `prefixes` stand before a query and before a document or negative, as some models want it.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        columns: Columns,
        *,
        prefixes: tuple[str, str],
        negatives: int,
        context: int,
        long: str = "auto",
    ) -> None:
        self._framer = TextFramer(tokenizer, context=context, long=long)
        self.columns, self.prefixes = columns, prefixes
        self.negatives = negatives if "negative" in columns.by_role else 0

    @property
    def key(self) -> str:
        """Names all that the examples depend on, the rows apart."""
        roles = sorted(self.columns.by_role.items())
        return digest_of("pairs", _VERSION, self._framer.key, roles, self.prefixes, self.negatives)

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """For each row its example, or what is wrong with it."""
        found = [judged(self._read, row) for row in rows]
        texts = [text for entry in found if not isinstance(entry, BadField) for text in self._prefixed(entry)]
        framed = iter(self._framer.frame(texts))
        return [
            entry if isinstance(entry, BadField) else self._example(entry, [next(framed) for _ in entry], row.fields)
            for entry, row in zip(found, rows, strict=True)
        ]

    def _read(self, fields: Mapping[str, object]) -> list[str]:
        """The query, the document, and as many negatives as there are, up to the number of places."""
        texts = [text_in(fields, self.columns[role]) for role in ("query", "document")]
        if not self.negatives:
            return texts
        column = self.columns["negative"]
        value = fields.get(column)
        given = value if isinstance(value, list) else [] if value in (None, "") else [value]
        return texts + [text_in({column: entry}, column) for entry in given[: self.negatives]]

    def _prefixed(self, texts: list[str]) -> list[str]:
        return [self.prefixes[min(at, 1)] + text for at, text in enumerate(texts)]

    def _example(self, texts: list[str], framed: list[Framed], fields: Mapping[str, object]) -> Encoded:
        try:
            for at, (_, cut) in enumerate(framed):
                self._framer.check(self.columns[TEXTS[min(at, 2)]], cut)
        except BadField as bad:
            return bad
        absent = 2 + self.negatives - len(texts)
        kept = str(fields.get(self.columns["slice"], "")) if "slice" in self.columns.by_role else ""
        shown = json.dumps([text[:SHOWN_CHARACTERS] for text in (*texts[:2], kept)], ensure_ascii=False)
        example: dict[str, np.ndarray] = {
            "input_ids": np.concatenate([ids for ids, _ in framed]),
            "lengths": np.array([*(len(ids) for ids, _ in framed), *[0] * absent], dtype=np.int32),
            "keys": np.array([*map(key_of, texts), *[NO_TEXT] * absent], dtype=np.int64),
            "shown": np.frombuffer(shown.encode("utf-8", "replace"), dtype=np.uint8),
        }
        if any(cut for _, cut in framed):
            example["truncated"] = np.asarray(True)
        return [example]


def texts_of_example(example: Example) -> list[np.ndarray]:
    """The tokens of each text of an example, empty where there is none."""
    return np.split(np.asarray(example["input_ids"]), np.cumsum(example["lengths"])[:-1])
