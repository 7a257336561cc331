"""Text becomes examples: plain text, a prompt with its response, chat messages. All that is known of text is here.

An example has `input_ids` (T,), `num_bytes` (scalar: UTF-8 bytes of what carries loss, for bits per byte) and, where
only a part carries loss, `labels_mask` (T,). Special tokens around a text are the tokenizer's own; the end token is
added where the tokenizer would not, since a model that never sees an end never stops.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.core.errors import RequestError, nearest
from danlu.data.chat import answer_bytes, chosen_template, encode_chat, read_messages
from danlu.data.columns import Columns
from danlu.data.fingerprints import digest_of
from danlu.data.rows import BadField, Example, Row
from danlu.data.sources import Source
from danlu.data.words import Words, shortcut_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERSION = 1
Encoded = list[Example] | BadField


class TextEncoder:
    """Turns rows into examples, many at a time.

    A prompt and its response are joined as one turn of chat where the tokenizer has a chat template (or the recipe
    gives one); otherwise as they are, with a line break between them unless the prompt ends in white space. They are
    tokenised apart, as they will be when the model is asked.

    `long` (a text of more than `context` tokens): plain text is kept whole here, and cut by `packing.cut` (`split`),
    or loses its end (`truncate`). A prompt loses its beginning and a conversation its last turns (`truncate`);
    cutting them in pieces would part questions from answers, so `split` is refused. `refuse` makes it a bad row.

    The template that is used is set on the tokenizer, so that it is saved with the model and others can chat with it.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        columns: Columns,
        *,
        context: int,
        long: str = "auto",
        template: str | None = None,
    ) -> None:
        self.columns = columns
        self.context = context
        self.long = _resolved_long(long, columns.kind)
        chats = columns.kind == "messages" or (columns.kind == "prompt" and (template or tokenizer.chat_template))
        self.template = chosen_template(tokenizer, template) if chats else None
        self._chat_tokenizer = tokenizer if chats else None
        self._codec = Codec(tokenizer)
        if self.template is not None:
            tokenizer.chat_template = self.template

    @property
    def key(self) -> str:
        """Names all that the examples depend on, the rows apart."""
        limits = (self.context, self.long) if self.long != "split" else ("split",)
        roles = sorted(self.columns.by_role.items())
        return digest_of("text", _VERSION, self._codec.key, self.columns.kind, roles, self.template, *limits)

    @property
    def whole_documents(self) -> bool:
        """True when a source must give each document in one row, since its length counts."""
        return self.long != "split"

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """For each row its examples, or what is wrong with it."""
        if self.columns.kind == "text":
            return self._texts(rows)
        if self.template is None:
            return self._pairs(rows)
        return [judged(self._chat, row) for row in rows]

    def prompt_ids(self, fields: Mapping[str, object]) -> np.ndarray:
        """The tokens to give a model that shall answer: `fields` as a row of the data, its answer not needed.

        Raises:
            BadField: a field is missing or is no text.
        """
        if self.columns.kind == "text":
            return np.concatenate([self._codec.prefix, self._codec.ids([text_in(fields, self.columns["text"])])[0]])
        if self.template is None:
            return np.concatenate([self._codec.prefix, self._codec.ids([self._prompt_text(fields)])[0]])
        if self.columns.kind == "messages":
            messages = read_messages(fields.get(self.columns["messages"]), self.columns["messages"], answered=False)
            while messages and messages[-1]["role"] == "assistant":
                messages.pop()
        else:
            messages = self._turns(fields)
        tokenizer: Any = self._chat_tokenizer
        ids = tokenizer.apply_chat_template(
            messages, chat_template=self.template, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]
        return np.asarray(ids, dtype=self._codec.dtype)

    def _texts(self, rows: Sequence[Row]) -> list[Encoded]:
        column = self.columns["text"]
        values = [judged(lambda fields: text_in(fields, column), row) for row in rows]
        good = [at for at, value in enumerate(values) if not isinstance(value, BadField)]
        all_ids = self._codec.ids([values[at] for at in good])
        results: list[Encoded] = list(values)
        for at, ids in zip(good, all_ids, strict=True):
            results[at] = self._document(rows[at], ids, len(values[at].encode("utf-8")), column)
        return results

    def _document(self, row: Row, ids: np.ndarray, num_bytes: int, column: str) -> Encoded:
        """A text between the tokenizer's special tokens; a part of a text has only those at its own ends."""
        codec = self._codec
        before = codec.prefix if row.part.first else codec.nothing
        after = codec.suffix if row.part.last else codec.nothing
        if not len(before) and not row.part.joined and len(ids):
            num_bytes -= codec.num_bytes(int(ids[0]))  # nothing comes before the first token, so it carries no loss
        whole = np.concatenate([before, ids, after])
        truncated = len(whole) > self.context
        if self.long == "refuse" and truncated:
            return self._too_long(column, len(whole))
        if self.long == "truncate" and truncated:
            kept = self.context - len(before)
            num_bytes = num_bytes * kept // max(len(ids), 1)
            return [_example(whole[: self.context], num_bytes, truncated=True)]
        return [_example(whole, num_bytes)]

    def _pairs(self, rows: Sequence[Row]) -> list[Encoded]:
        column = self.columns["response"]
        pairs = [judged(lambda fields: (self._prompt_text(fields), text_in(fields, column)), row) for row in rows]
        all_ids = iter(self._codec.ids([text for pair in pairs if not isinstance(pair, BadField) for text in pair]))
        return [
            pair
            if isinstance(pair, BadField)
            else self._pair(next(all_ids), next(all_ids), len(pair[1].encode("utf-8")))
            for pair in pairs
        ]

    def _pair(self, prompt_ids: np.ndarray, response_ids: np.ndarray, num_bytes: int) -> Encoded:
        """A prompt that is read and a response that is learnt, both between the tokenizer's special tokens."""
        prompt = np.concatenate([self._codec.prefix, prompt_ids])
        answer = np.concatenate([response_ids, self._codec.suffix])
        over = len(prompt) + len(answer) - self.context
        if over > 0 and (self.long == "refuse" or over > len(prompt_ids)):
            alone = over > len(prompt_ids)
            return self._too_long(self.columns["response"], len(prompt) + len(answer), alone=alone)
        if over > 0:
            prompt = np.concatenate([self._codec.prefix, prompt_ids[over:]])
        mask = np.zeros(len(prompt) + len(answer), dtype=bool)
        mask[len(prompt) :] = True
        return [_example(np.concatenate([prompt, answer]), num_bytes, mask, truncated=over > 0)]

    def _chat(self, fields: Mapping[str, object]) -> list[Example]:
        messages = self._messages(fields)
        column = self.columns["messages" if self.columns.kind == "messages" else "response"]
        tokenizer: Any = self._chat_tokenizer
        ids, mask = encode_chat(tokenizer, str(self.template), messages, column)
        num_bytes = answer_bytes(messages)
        over = len(ids) > self.context
        if over:
            kept = int(mask[: self.context].sum())
            if self.long == "refuse" or kept == 0:
                raise self._too_long(column, len(ids), alone=self.long != "refuse")
            num_bytes = num_bytes * kept // int(mask.sum())
            ids, mask = ids[: self.context], mask[: self.context]
        if not mask.any():
            raise BadField(column, "has no token to learn from under the chat template", "Check the template")
        return [_example(ids.astype(self._codec.dtype), num_bytes, mask, truncated=over)]

    def _messages(self, fields: Mapping[str, object]) -> list[dict[str, Any]]:
        if self.columns.kind == "messages":
            column = self.columns["messages"]
            if column not in fields:
                raise _missing(column, fields)
            return read_messages(fields[column], column)
        return [*self._turns(fields), {"role": "assistant", "content": text_in(fields, self.columns["response"])}]

    def _turns(self, fields: Mapping[str, object]) -> list[dict[str, Any]]:
        system = self._optional(fields, "system")
        turns = [{"role": "system", "content": system}] if system else []
        return [*turns, {"role": "user", "content": self._question(fields)}]

    def _prompt_text(self, fields: Mapping[str, object]) -> str:
        system = self._optional(fields, "system")
        question = self._question(fields)
        text = f"{system}\n\n{question}" if system else question
        return text if text[-1:].isspace() else text + "\n"

    def _question(self, fields: Mapping[str, object]) -> str:
        question = text_in(fields, self.columns["prompt"])
        given = self._optional(fields, "input")
        return f"{question}\n\n{given}" if given else question

    def _optional(self, fields: Mapping[str, object], role: str) -> str:
        column = self.columns.by_role.get(role)
        value = fields.get(column) if column is not None else None
        if value is not None and not isinstance(value, str):
            raise _wrong_type(str(column), value)
        return value or ""

    def _too_long(self, column: str, length: int, *, alone: bool = False) -> BadField:
        if alone:
            return BadField(
                column,
                f"leaves no room: the answer alone does not fit into a context of {self.context} tokens",
                f"Raise data.context (all of it has {length} tokens)",
            )
        mend = f"Set data.context to {length} or more, or data.long: truncate"
        return BadField(column, f"is {length} tokens long, the context holds {self.context}", mend)


def texts_of(source: Source, columns: Columns) -> Iterator[str]:
    """The texts that a tokenizer is trained on: of each row, what its roles hold; bad rows are passed over."""
    for file in source.files:
        for row in source.rows(file, on_bad=lambda _bad: None):
            yield from strings_in([row.fields.get(column) for column in columns.by_role.values()])


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if value.isascii() or value.encode("utf-8", "ignore").decode() == value:
            yield value
    elif isinstance(value, Mapping):
        yield from strings_in([value.get(name) for name in ("content", "value", "text")])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from strings_in(entry)


class Codec:
    """Text to token ids, through the Rust tokenizer directly where there is one; cheap to send to another process."""

    def __init__(self, tokenizer: Any) -> None:
        fast: bool = getattr(tokenizer, "is_fast", False)
        self._slow: Any = None if fast else tokenizer
        self._rust: Any = _bare(tokenizer.backend_tokenizer) if fast else None
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        self.nothing = np.zeros(0, dtype=self.dtype)
        self.prefix, self.suffix = self._specials(tokenizer)
        described = self._rust.to_str() if self._rust is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
        self.key = digest_of(described, self.prefix.tolist(), self.suffix.tolist())
        self._bytes_of_token: dict[int, int] = {}

    def ids(self, texts: list[str]) -> list[np.ndarray]:
        """The tokens of each text, without special tokens around it."""
        if self.words is not None:
            return self.words.ids(texts)
        if self._rust is None:
            found = self._slow(texts, add_special_tokens=False)["input_ids"] if texts else []
            return [np.asarray(ids, dtype=self.dtype) for ids in found]
        encodings = self._rust.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    @functools.cached_property
    def words(self) -> Words | None:
        """The shortcut, where there is one; making sure of it takes some tenths of a second, at the first use."""
        return shortcut_for(self._rust, self.dtype) if self._rust is not None else None

    def num_bytes(self, token: int) -> int:
        """The UTF-8 bytes of one token's text."""
        if token not in self._bytes_of_token:
            decoder = self._slow if self._rust is None else self._rust
            self._bytes_of_token[token] = len(decoder.decode([token]).encode("utf-8", "replace"))
        return self._bytes_of_token[token]

    def _specials(self, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
        """What the tokenizer puts before and after a text, and the end token if it puts nothing after."""
        bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        full = list(tokenizer("a")["input_ids"])
        at = next((start for start in range(len(full)) if full[start : start + len(bare)] == bare), 0)
        before, after = full[:at], full[at + len(bare) :]
        if not after and tokenizer.eos_token_id is not None:
            after = [tokenizer.eos_token_id]
        return np.array(before, dtype=self.dtype), np.array(after, dtype=self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "words": self.words, "_rust": None if self._rust is None else self._rust.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state["_rust"] is not None:
            self._rust = _from_description(state["_rust"])


def _from_description(description: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(description)


def _bare(backend: Any) -> Any:
    """A copy of the Rust tokenizer without cutting and filling up, which some saved tokenizers have switched on."""
    core = _from_description(backend.to_str())
    core.no_truncation()
    core.no_padding()
    return core


def _resolved_long(long: str, kind: str) -> str:
    if long == "auto":
        return "split" if kind == "text" else "refuse"
    if long == "split" and kind != "text":
        raise RequestError(
            "a conversation cannot be split, that would part questions from answers",
            where="data.long",
            mend="Choose refuse or truncate",
        )
    return long


def _example(ids: np.ndarray, num_bytes: int, mask: np.ndarray | None = None, *, truncated: bool = False) -> Example:
    example = {"input_ids": ids, "num_bytes": np.asarray(num_bytes, dtype=np.int64)}
    if mask is not None:
        example["labels_mask"] = mask
    if truncated:
        example["truncated"] = np.asarray(True)
    return example


def judged(encode: Any, row: Row) -> Any:
    """What `encode` makes of the row's fields, or what is wrong with them."""
    try:
        return encode(row.fields)
    except BadField as bad:
        return bad


def text_in(fields: Mapping[str, object], column: str) -> str:
    """The text of a column, fit for a tokenizer.

    Raises:
        BadField: there is none, or it is no text.
    """
    try:
        value = fields[column]
    except KeyError:
        raise _missing(column, fields) from None
    if value is None:
        raise BadField(column, "is empty (null)", "Fill it")
    if not isinstance(value, str):
        raise _wrong_type(column, value)
    if not value:
        raise BadField(column, "holds no text", "Fill it")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadField(column, "holds half a character (a lone surrogate)", "Save it as UTF-8 again") from None
    return value


def _missing(column: str, fields: Mapping[str, object]) -> BadField:
    return BadField(column, "is missing", f"Fill it ({nearest(column, map(str, fields))}?)")


def _wrong_type(column: str, value: object) -> BadField:
    return BadField(column, f"is a {type(value).__name__}, not a text", "Write it as text, in quotes")
