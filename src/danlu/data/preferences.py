"""Preferences become examples: a prompt with a chosen and a rejected completion, or with one and a verdict on it.

An example has `input_ids` (both texts, prompt and completion, one after the other), `lengths` (of each), `labels_mask`
(True on the completions) and, where there is one completion with a verdict, `desirable`. A text is made as in
`data.text`: as turns of a chat where there are messages or the tokenizer has a template, else as it stands.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from danlu.core.errors import DataError
from danlu.data.chat import Message, read_messages
from danlu.data.columns import ALIASES, Columns, find_roles
from danlu.data.examples import Examples
from danlu.data.fingerprints import digest_of
from danlu.data.rows import BadField, Example, Row
from danlu.data.text import Encoded, TextEncoder, text_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERSION = 1
_ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": (*ALIASES["prompt"], *ALIASES["messages"]),
    "chosen": ("chosen", "chosen_response", "preferred", "accepted", "response_chosen"),
    "rejected": ("rejected", "rejected_response", "dispreferred", "response_rejected"),
    "completion": ALIASES["response"],
    "label": ("label", "kto_tag", "desirable", "verdict"),
    "input": ALIASES["input"],
    "system": ALIASES["system"],
}
_ANSWERS = ("chosen", "rejected", "completion")
_VERDICTS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_SPEAKERS = re.compile(r"\n\n(Human|Assistant): ?")


def preference_columns(
    fields: Mapping[str, object], *, told: Mapping[str, str], where: str, verdicts: bool = False
) -> Columns:
    """The columns of pairs; with `verdicts` those of single completions that are desirable or not, if there are any.

    Understood are prompts and completions that are texts or lists of messages (TRL, UltraFeedback, LLaMA-Factory),
    chosen and rejected conversations that hold the prompt themselves, and those of Anthropic's hh-rlhf.

    Raises:
        RequestError: a role that does not exist. DataError: a column that is not there, or that nobody can guess.
    """
    names = {str(name).lower() for name in fields}
    paired = not verdicts or "chosen" in told or bool(names & set(_ALIASES["chosen"]))
    needed = ("chosen", "rejected") if paired else ("label",)
    optional = ("prompt", "input", "system") if paired else ("prompt", "completion", "input", "system")
    by_role = find_roles(fields, needed=needed, optional=optional, aliases=_ALIASES, told=told, where=where)
    answers = [by_role[role] for role in _ANSWERS if role in by_role]
    turns = {column: _seen(fields[column], column) for role, column in by_role.items() if role in ("prompt", *_ANSWERS)}
    spoken = any(turns.values())
    if "prompt" not in by_role and not all(_is_whole(turns[column]) for column in answers):
        mend = "Say which it is: data.columns: {prompt: NAME}"
        raise DataError(
            f"has no column for 'prompt'; its columns are {', '.join(map(str, fields))}", where=where, mend=mend
        )
    if not answers and not _is_whole(turns.get(by_role.get("prompt", ""))):
        mend = "Say which it is: data.columns: {completion: NAME}"
        raise DataError(
            f"has no column for 'completion'; its columns are {', '.join(map(str, fields))}", where=where, mend=mend
        )
    return Columns(kind="messages" if spoken else "prompt", by_role=by_role)


class PreferenceEncoder:
    """Turns rows into examples, many at a time: one for each pair or verdict, or with `unpair` two for each pair."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        columns: Columns,
        *,
        context: int,
        long: str = "auto",
        template: str | None = None,
        unpair: bool = False,
    ) -> None:
        self.columns, self.unpair = columns, unpair
        pair = ("chosen", "rejected")
        self.answers = pair if "chosen" in columns.by_role else ("completion",)
        asked = {role: column for role, column in columns.by_role.items() if role in ("prompt", "input", "system")}
        self._encoders: list[TextEncoder] = []
        for role in self.answers:
            column = columns.by_role.get(role, columns.by_role.get("prompt", ""))
            by_role = {"messages": column} if columns.kind == "messages" else {**asked, "response": column}
            inner = Columns(kind=columns.kind, by_role=by_role)
            self._encoders.append(TextEncoder(tokenizer, inner, context=context, long=long, template=template))

    @property
    def key(self) -> str:
        """Names all that the examples depend on, the rows apart."""
        inner, roles = [encoder.key for encoder in self._encoders], sorted(self.columns.by_role.items())
        return digest_of("preferences", _VERSION, *inner, roles, self.unpair)

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """For each row its examples, or what is wrong with it."""
        texts = [self._texts(rows, at) for at in range(len(self.answers))]
        return [self._examples(row, list(parts)) for row, *parts in zip(rows, *texts, strict=True)]

    def _texts(self, rows: Sequence[Row], at: int) -> list[Encoded]:
        """Prompt and one of the completions of each row."""
        encoder, role = self._encoders[at], self.answers[at]
        if self.columns.kind == "prompt":
            return encoder.encode_rows(rows)
        column, made, bad = encoder.columns["messages"], [], {}
        for number, row in enumerate(rows):
            try:
                made.append(row._replace(fields={column: self._conversation(row.fields, role)}))
            except BadField as problem:
                bad[number] = problem
        encoded = iter(encoder.encode_rows(made))
        return [bad[number] if number in bad else next(encoded) for number in range(len(rows))]

    def _conversation(self, fields: Mapping[str, object], role: str) -> list[Message]:
        prompt = self._asked(fields)
        column = self.columns.by_role.get(role)
        if column is None:  # the completion is the last turn of the conversation
            return _ending_in_answer(prompt, self.columns["prompt"])
        answer = _turns(fields.get(column), column) or [{"role": "assistant", "content": text_in(fields, column)}]
        return _ending_in_answer(answer if _is_whole(answer) else [*prompt, *answer], column)

    def _asked(self, fields: Mapping[str, object]) -> list[Message]:
        system = self.columns.by_role.get("system")
        said = fields.get(system) if system is not None else None
        opening: list[Message] = [{"role": "system", "content": said}] if isinstance(said, str) and said else []
        column = self.columns.by_role.get("prompt")
        if column is None:
            return opening
        turns = _turns(fields.get(column), column)
        if turns is None:
            given = fields.get(self.columns.by_role.get("input", ""))
            question = text_in(fields, column) + (f"\n\n{given}" if isinstance(given, str) and given else "")
            turns = [{"role": "user", "content": question}]
        return turns if turns[0]["role"] == "system" else [*opening, *turns]

    def _examples(self, row: Row, parts: list[Encoded]) -> Encoded:
        texts: list[Example] = []
        for part in parts:
            if isinstance(part, BadField):
                return part
            texts += part
        if "label" in self.columns.by_role and len(texts) == 1:
            try:
                verdicts = [_verdict(row.fields, self.columns["label"])]
            except BadField as bad:
                return bad
        else:
            verdicts = [True, False]
        if len(texts) == 2 and not self.unpair:
            return [_joined(texts)]
        return [
            {**_joined([text]), "desirable": np.asarray(verdict)} for text, verdict in zip(texts, verdicts, strict=True)
        ]


class Preferences:
    """Encoded preferences with two texts each: the pair, or the completion and a mismatched one.

    The mismatched text is the prompt with the completion of another example, half the data away, so that it is the
    same whatever the batch; what does not fit into the context is cut off its end. `reference` (N, 2), when set, is
    what the reference model makes of the texts.
    """

    def __init__(self, examples: Examples, *, context: int) -> None:
        self._examples, self._context = examples, context
        self.paired = "desirable" not in examples.meta.fields
        self.reference: np.ndarray | None = None
        self.fingerprint = digest_of("preferences", examples.fingerprint, context)
        own = examples.lengths_of("input_ids")
        self.lengths = own if self.paired else np.minimum(own + np.roll(own, -self._away), 2 * context)

    @property
    def _away(self) -> int:
        return max(1, len(self._examples) // 2)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, at: int) -> Example:
        example = dict(self._examples[at])
        if not self.paired:
            example |= self._with_mismatched(example, self._examples[(at + self._away) % len(self)])
        if self.reference is not None:
            example["reference"] = self.reference[at]
        return example

    def _with_mismatched(self, example: Example, other: Example) -> Example:
        asked, answered = int(np.argmax(example["labels_mask"])), int(np.argmax(other["labels_mask"]))
        answer = np.asarray(other["input_ids"])[answered : answered + self._context - asked]
        mask = np.arange(asked + len(answer)) >= asked
        return {
            "input_ids": np.concatenate([example["input_ids"], example["input_ids"][:asked], answer]),
            "lengths": np.array([len(example["input_ids"]), len(mask)], dtype=np.int32),
            "labels_mask": np.concatenate([example["labels_mask"], mask]),
        }


def _turns(value: object, column: str) -> list[Message] | None:
    """The messages of a field: a list, one message, either as JSON, or a dialogue as hh-rlhf writes it; None else."""
    if isinstance(value, str):
        parts = _SPEAKERS.split(value)
        if value.startswith("\n\nHuman:"):
            names = {"Human": "user", "Assistant": "assistant"}
            return [{"role": names[who], "content": said} for who, said in zip(parts[1::2], parts[2::2], strict=True)]
        if not value.lstrip().startswith("[{"):
            return None
    if isinstance(value, Mapping):
        value = [value]
    return read_messages(value, column, answered=False) if isinstance(value, (str, list, tuple)) and value else None


def _seen(value: object, column: str) -> list[Message] | None:
    """The messages of a first row, whose mistakes are told when it is encoded."""
    try:
        return _turns(value, column)
    except BadField:
        return None


def _is_whole(turns: Sequence[Message] | None) -> bool:
    """True for a conversation that holds its prompt, false for answers alone."""
    return bool(turns) and turns[0]["role"] != "assistant"  # type: ignore[index]


def _ending_in_answer(messages: list[Message], column: str) -> list[Message]:
    if messages[-1]["role"] != "assistant":
        raise BadField(column, "does not end with a message of the assistant", "Add the answer")
    if len(messages) < 2:
        raise BadField(column, "is an answer without a prompt", "Add what was asked")
    return messages


def _joined(texts: Sequence[Example]) -> dict[str, np.ndarray]:
    """Texts one after the other; of a conversation only the last answer counts."""
    masks = []
    for text in texts:
        mask = np.array(text["labels_mask"])
        last = len(mask) - int(np.argmax(mask[::-1]))
        before = np.flatnonzero(~mask[:last])
        mask[: before[-1] + 1 if len(before) else 0] = False
        masks.append(mask)
    joined = {
        "input_ids": np.concatenate([text["input_ids"] for text in texts]),
        "lengths": np.array([len(mask) for mask in masks], dtype=np.int32),
        "labels_mask": np.concatenate(masks),
    }
    return joined | ({"truncated": np.asarray(True)} if any("truncated" in text for text in texts) else {})


def _verdict(fields: Mapping[str, object], column: str) -> bool:
    value = fields.get(column)
    word = str(value).strip().lower().removesuffix(".0")
    if word not in _VERDICTS:
        raise BadField(column, f"is {value!r}, no verdict", "Write true where the completion is desirable, else false")
    return _VERDICTS[word]
