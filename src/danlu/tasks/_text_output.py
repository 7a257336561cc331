"""What a language model writes for a row, and the samples of a run: shared by the tasks whose answers are text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from pydantic import Field
from torch import nn

from danlu.core.batch import IGNORED
from danlu.core.errors import DataError, RequestError, nearest
from danlu.data.columns import ALIASES, Columns
from danlu.data.examples import ExampleSet
from danlu.data.rows import BadField
from danlu.data.text import TextEncoder
from danlu.models.writing import BATCH_ROWS, Writing, context_of, log_probabilities, write_texts

SAMPLE_TOKENS = 96
PROMPT_TOKENS = 24
PROMPT_CHARACTERS = 160
SHORTEST_PROMPT = 8


class TextOptions(Writing):
    """How to answer rows: the draw, and what the trained model's data looked like."""

    temperature: float = Field(default=0.0, ge=0.0)
    """0 takes the likeliest token every time; above, tokens are drawn"""
    logprob: bool = False
    """tell also how likely the model thought its own answer, as the sum of the tokens' log-probabilities in nats"""
    chat: bool | None = None
    """put the prompt into the tokenizer's chat template; when absent, as in training"""
    format: str = "auto"
    """what a row was in training: text, prompt or messages"""
    columns: dict[str, str] = {}
    """role -> column"""
    template: str | None = None
    """chat template, when it is not the tokenizer's own"""


def predict_texts(
    model: nn.Module, tokenizer: Any, rows: Iterable[Mapping[str, object]], options: TextOptions
) -> Iterator[dict[str, object]]:
    """For each row, in order, `prediction` (text), `finish` (end or length) and, when asked for, `logprob`.

    Rows are encoded one by one as they are drawn, so that a BadField is always about the row drawn last.

    Raises:
        DataError: the rows have no column that could be a prompt.
        BadField: a row's prompt is missing, no text, or longer than the model's context.
    """
    drawn, at = iter(rows), 0
    encoder: TextEncoder | None = None
    while True:
        prompts = []
        for fields in islice(drawn, BATCH_ROWS):
            encoder = encoder or asking_encoder(tokenizer, fields, options)
            prompts.append(_fitting(model, encoder, fields))
        if not prompts:
            return
        answers = write_texts(model, tokenizer, prompts, options, first_row=at)
        scores = log_probabilities(model, prompts, [answer.ids for answer in answers]) if options.logprob else None
        for row, answer in enumerate(answers):
            likely = {} if scores is None else {"logprob": scores[row]}
            yield {"prediction": answer.text, "finish": answer.finish, **likely}
        at += len(prompts)


def asking_encoder(tokenizer: Any, fields: Mapping[str, object], options: TextOptions) -> TextEncoder:
    """The encoder that turns rows like `fields` into prompts as the model met them in training; no answer is needed.

    Raises:
        RequestError: a chat is asked for and there is no template.
        DataError: there is no column to take the prompt from.
    """
    template = options.template or tokenizer.chat_template
    if options.chat and not template:
        raise RequestError("this model's tokenizer has no chat template", where="chat", mend="Ask without chat")
    kind = _kind(fields, options, has_template=bool(template))
    roles = {"messages": ("messages",), "prompt": ("prompt", "input", "system"), "text": ("text",)}[kind]
    found = {role: column for role in roles if (column := _column(role, fields, options.columns)) is not None}
    if kind == "messages" and not found and (column := _column("prompt", fields, options.columns)) is not None:
        found = {"messages": column}  # a prompt may be a list of messages
    if kind == "text" and "text" not in found:
        column = _column("prompt", fields, options.columns) or _lone(fields)
        found = {"text": column} if column is not None else {}
    if roles[0] not in found:
        raise DataError(
            f"there is no column for the {roles[0]}; its columns are {', '.join(map(str, fields)) or 'none'}",
            where="the input",
            mend=nearest(roles[0], map(str, fields)),
        )
    columns = Columns(kind=kind, by_role=found)  # type: ignore[arg-type]
    return TextEncoder(tokenizer, columns, context=2, template=options.template)


def sample_texts(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str | Sequence[int]], *, seed: int
) -> list[dict[str, str]]:
    """The fields of `sample` records: each prompt (a text, or token ids) and what the model writes after it."""
    if not prompts:
        return []
    asking = asking_encoder(tokenizer, {"text": ""}, TextOptions(format="text"))
    all_ids = [
        asking.prompt_ids({"text": prompt}).tolist() if isinstance(prompt, str) else list(prompt) for prompt in prompts
    ]
    written = write_texts(model, tokenizer, all_ids, Writing(max_tokens=SAMPLE_TOKENS, seed=seed))
    return [
        {"prompt": tokenizer.decode(ids, skip_special_tokens=True), "text": answer.text}
        for ids, answer in zip(all_ids, written, strict=True)
    ]


def prompts_from(examples: ExampleSet, number: int, tokenizer: Any) -> list[str | list[int]]:
    """Something to go on from, of examples that are evenly spread: all before the answer, or a line of a plain text."""
    chosen = np.linspace(0, len(examples) - 1, num=min(number, len(examples)), dtype=int)
    prompts = [_beginning(examples[int(at)], tokenizer) for at in dict.fromkeys(chosen.tolist())]
    return [prompt for prompt in prompts if prompt]


def _fitting(model: nn.Module, encoder: TextEncoder, fields: Mapping[str, object]) -> list[int]:
    ids, limit = encoder.prompt_ids(fields).tolist(), context_of(model)
    if limit is not None and len(ids) >= limit:
        column = next(iter(encoder.columns.by_role.values()))
        problem = f"is {len(ids)} tokens long, and the model's context holds {limit}, its answer included"
        raise BadField(column, problem, "Shorten it")
    return ids


def _beginning(example: Mapping[str, np.ndarray], tokenizer: Any) -> str | list[int]:
    ids_T = np.asarray(example["input_ids"])
    if "position_ids" in example:  # packed: only the row's first document
        starts = np.flatnonzero(np.asarray(example["position_ids"]) == 0)
        ids_T = ids_T[: int(starts[1])] if len(starts) > 1 else ids_T
    if "labels" in example:
        asked = int(np.argmax(np.asarray(example["labels"])[: len(ids_T)] != IGNORED))
        if asked > 1:
            return ids_T[:asked].tolist()
    return _line(tokenizer.decode(ids_T.tolist(), skip_special_tokens=True)) or ids_T[:PROMPT_TOKENS].tolist()


def _line(text: str) -> str:
    """A line that stands for itself, the first that begins at the margin if there is one; "" when all are broken."""
    whole = [line.rstrip()[:PROMPT_CHARACTERS] for line in text.splitlines()[1:-1]]  # a row may begin and end anywhere
    lines = [line for line in whole if len(line.strip()) >= SHORTEST_PROMPT]
    return next((line for line in lines if line[0].isalpha()), lines[0] if lines else "")


def _kind(fields: Mapping[str, object], options: TextOptions, *, has_template: bool) -> str:
    if options.chat is False:
        return "text"
    messages, prompt = (_column(role, fields, options.columns) for role in ("messages", "prompt"))
    turns = any(column is not None and isinstance(fields[column], (list, tuple)) for column in (messages, prompt))
    if options.format == "messages" and messages is None and prompt is not None and not turns:
        return "prompt"
    if options.format in ("prompt", "messages"):
        return options.format
    if options.format == "text":
        return "prompt" if options.chat else "text"
    if turns:
        return "messages"
    asked = prompt is not None
    return "prompt" if options.chat or (asked and has_template) else "text"


def _column(role: str, fields: Mapping[str, object], told: Mapping[str, str]) -> str | None:
    """The column of a role: the one told, else the first that is named as such columns are."""
    if told.get(role) in fields:
        return told[role]
    by_name = {str(name).lower(): str(name) for name in fields}
    names = (by_name[alias] for alias in ALIASES[role] if alias in by_name)
    return next((name for name in names if name not in told.values()), None)


def _lone(fields: Mapping[str, object]) -> str | None:
    texts = [str(name) for name, value in fields.items() if isinstance(value, str)]
    return texts[0] if len(texts) == 1 else None
