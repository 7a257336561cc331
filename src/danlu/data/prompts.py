"""Prompts to be answered become examples: `input_ids`, the tokens of a prompt, and `row`, what it was in the file.

`row` is UTF-8 of a JSON object with `prompt` and `columns`, all fields of the row: what a reward may look at.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from danlu.data.columns import ALIASES, Columns, find_roles
from danlu.data.examples import Examples
from danlu.data.fingerprints import digest_of
from danlu.data.rows import BadField, Example, Row
from danlu.data.text import Encoded, TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERSION = 1
_ALIASES = {
    "prompt": (*ALIASES["prompt"], *ALIASES["messages"], *ALIASES["text"]),
    "input": ALIASES["input"],
    "system": ALIASES["system"],
}


def prompt_columns(fields: Mapping[str, object], *, told: Mapping[str, str], where: str) -> Columns:
    """The column of the prompt, a text (perhaps with `input` and `system`) or a list of messages.

    Raises:
        RequestError: a role that does not exist. DataError: a column that is not there, or that nobody can guess.
    """
    more = ("input", "system")
    by_role = find_roles(fields, needed=("prompt",), optional=more, aliases=_ALIASES, told=told, where=where)
    if isinstance(fields[by_role["prompt"]], (list, tuple)):
        return Columns(kind="messages", by_role={"messages": by_role["prompt"]})
    return Columns(kind="prompt", by_role=by_role)


class PromptEncoder:
    """Turns rows into examples, many at a time; a prompt of more than `room` tokens is a bad row."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", columns: Columns, *, room: int, template: str | None = None
    ) -> None:
        self.room = room
        self._column = columns.by_role.get("prompt") or columns["messages"]
        self._asking = TextEncoder(tokenizer, columns, context=room, template=template)

    @property
    def key(self) -> str:
        """Names all that the examples depend on, the rows apart."""
        return digest_of("prompts", _VERSION, self._asking.key, self.room)

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """For each row its example, or what is wrong with it."""
        found: list[Encoded] = []
        for row in rows:
            try:
                found.append([self._example(row.fields)])
            except BadField as bad:
                found.append(bad)
        return found

    def _example(self, fields: Mapping[str, object]) -> Example:
        ids = self._asking.prompt_ids(fields)
        if len(ids) > self.room:
            problem = f"is {len(ids)} tokens long, and beside the answer there is room for {self.room}"
            raise BadField(self._column, problem, "Raise data.context, or lower task.max_tokens")
        told = {"prompt": fields[self._column], "columns": {str(name): value for name, value in fields.items()}}
        text = json.dumps(told, ensure_ascii=False, default=str).encode("utf-8", "replace")
        return {"input_ids": ids, "row": np.frombuffer(text, dtype=np.uint8)}


class Prompts:
    """Encoded prompts, each to be answered `copies` times with at most `max_tokens` tokens.

    A length is that of one answered prompt at most; with `together` that of all its copies, which are drawn as one.
    """

    def __init__(self, examples: Examples, *, copies: int, max_tokens: int, together: bool) -> None:
        self._examples = examples
        self._copies = np.asarray(copies)
        self.lengths = (examples.lengths_of("input_ids") + max_tokens) * (copies if together else 1)
        self.fingerprint = digest_of("prompts", examples.fingerprint, copies, max_tokens, together)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, at: int) -> Example:
        return {**self._examples[at], "copies": self._copies}
