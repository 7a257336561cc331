"""Texts with their labels become examples: one text or a pair, between the tokenizer's special tokens.

An example has `input_ids` (T,), for a pair of texts whose model tells them apart `token_type_ids` (T,), and `label`
as `labels.LabelReader` reads it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from danlu.core.errors import RequestError
from danlu.data.columns import Columns
from danlu.data.examples import Examples
from danlu.data.fingerprints import digest_of
from danlu.data.labels import LabelReader
from danlu.data.rows import BadField, Example, Row
from danlu.data.text import Codec, Encoded, judged, text_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERSION = 1


class LabelledEncoder:
    """Turns rows into examples, many at a time; `labels` None leaves the label out, as for rows to predict.

    A text stands between the tokenizer's special tokens, two texts as the tokenizer joins a pair. What is longer than
    `context` loses its end (`truncate`, and `auto`), of two texts the longer one first, or is a bad row (`refuse`).
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        columns: Columns,
        labels: LabelReader | None,
        *,
        context: int,
        long: str = "auto",
    ) -> None:
        if long == "split":
            raise RequestError(
                "a text with a label cannot be split: its parts need not bear the label",
                where="data.long",
                mend="Choose truncate or refuse",
            )
        self.columns, self.labels, self.context, self.long = columns, labels, context, long
        self._codec = Codec(tokenizer)
        self._roles = [role for role in ("text", "text_pair") if role in columns.by_role]
        self._frame = _Frame.of(tokenizer, self._codec, pair=len(self._roles) == 2)

    @property
    def key(self) -> str:
        """Names all that the examples depend on, the rows apart."""
        roles = sorted(self.columns.by_role.items())
        frame = [np.asarray(part).tolist() for part in dataclasses.astuple(self._frame)]
        labels = dataclasses.astuple(self.labels) if self.labels else None
        return digest_of("labelled", _VERSION, self._codec.key, roles, frame, labels, self.context, self.long)

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """For each row its example, or what is wrong with it."""
        found = [judged(self._read, row) for row in rows]
        texts = [text for entry in found if not isinstance(entry, BadField) for text in entry[0]]
        all_ids = iter(self._codec.ids(texts))
        return [
            entry if isinstance(entry, BadField) else self._example([next(all_ids) for _ in self._roles], entry[1])
            for entry in found
        ]

    def one(self, fields: Mapping[str, object]) -> Example:
        """The example of one row's fields.

        Raises:
            BadField: the row cannot be used.
        """
        texts, label = self._read(fields)
        encoded = self._example(self._codec.ids(texts), label)
        if isinstance(encoded, BadField):
            raise encoded
        return encoded[0]

    def _read(self, fields: Mapping[str, object]) -> tuple[list[str], np.ndarray | None]:
        texts = [text_in(fields, self.columns[role]) for role in self._roles]
        return texts, self.labels.read(fields) if self.labels else None

    def _example(self, parts: list[np.ndarray], label: np.ndarray | None) -> Encoded:
        room = self.context - self._frame.num_tokens
        over = sum(map(len, parts)) - room
        if over > 0 and (self.long == "refuse" or room < len(parts)):
            column = self.columns[self._roles[int(np.argmax([len(part) for part in parts]))]]
            whole = sum(map(len, parts)) + self._frame.num_tokens
            mend = f"Set data.context to {whole} or more, or data.long: truncate"
            return BadField(column, f"is {whole} tokens long, the context holds {self.context}", mend)
        if over > 0:
            parts = _shortened(parts, room)
        example: dict[str, np.ndarray] = self._frame.around(parts)
        if label is not None:
            example["label"] = label
        if over > 0:
            example["truncated"] = np.asarray(True)
        return [example]


def _shortened(parts: list[np.ndarray], room: int) -> list[np.ndarray]:
    """Cuts the ends so that all fits: of two, the longer one until both are of a length."""
    if len(parts) == 1:
        return [parts[0][:room]]
    first, second = parts
    num_first = min(len(first), max(room - len(second), room - room // 2))
    return [first[:num_first], second[: room - num_first]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Frame:
    """The special tokens before, between and after, and the token types of (before + first, between, second + after).

    `types` is None where the tokenizer does not tell a pair's texts apart.
    """

    before: np.ndarray
    between: np.ndarray
    after: np.ndarray
    types: tuple[int, np.ndarray, int] | None = None

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", codec: Codec, *, pair: bool) -> "_Frame":
        if not pair:
            return cls(before=codec.prefix, between=codec.nothing, after=codec.suffix)
        ids = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("a", "b")]
        both = tokenizer("a", "b", return_token_type_ids=True)
        full, types = list(both["input_ids"]), list(both.get("token_type_ids") or [])
        start = _find(full, ids[0], 0)
        end = start + len(ids[0])
        second = _find(full, ids[1], end)
        tells = any(types) and "token_type_ids" in tokenizer.model_input_names
        after = full[second + len(ids[1]) :]
        return cls(
            before=np.array(full[:start], dtype=codec.dtype),
            between=np.array(full[end:second], dtype=codec.dtype),
            after=np.array(after, dtype=codec.dtype) if after else codec.suffix,
            types=(types[start], np.array(types[end:second], dtype=np.uint8), types[second]) if tells else None,
        )

    @property
    def num_tokens(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, parts: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The row's `input_ids`, and `token_type_ids` where they are told apart."""
        if len(parts) == 1:
            return {"input_ids": np.concatenate([self.before, parts[0], self.after])}
        first, second = parts
        example = {"input_ids": np.concatenate([self.before, first, self.between, second, self.after])}
        if self.types is not None:
            one, between, two = self.types
            lengths = (len(self.before) + len(first), len(second) + len(self.after))
            ends = [np.full(length, kind, dtype=np.uint8) for length, kind in zip(lengths, (one, two), strict=True)]
            example["token_type_ids"] = np.concatenate([ends[0], between, ends[1]])
        return example


def _find(ids: list[int], wanted: list[int], start: int) -> int:
    places = range(start, len(ids) - len(wanted) + 1)
    return next((at for at in places if ids[at : at + len(wanted)] == wanted), start)


class Balanced:
    """Labelled examples with a `weight` each, so that every class counts the same: w_c = N / (C n_c).

    King and Zeng 2001; the formula is scikit-learn's. Classes without a row have no part in C.
    """

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        counts_C = np.bincount(examples.column("label"))
        self.weights_C: np.ndarray = len(examples) / (np.count_nonzero(counts_C) * np.maximum(counts_C, 1))
        self.lengths = examples.lengths
        self.fingerprint = digest_of("balanced", examples.fingerprint)

    def __len__(self) -> int:
        return len(self._examples)

    def column(self, name: str) -> np.ndarray:
        """A number of each example."""
        return self._examples.column(name)

    def __getitem__(self, at: int) -> Example:
        example = self._examples[at]
        return {**example, "weight": np.asarray(self.weights_C[int(example["label"])], dtype=np.float32)}


def text_columns(columns: Columns) -> Columns:
    """The same without the label: what a tokenizer is trained on."""
    return Columns(kind=columns.kind, by_role={role: name for role, name in columns.by_role.items() if role != "label"})
