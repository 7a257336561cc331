"""Conversations: danlu's own template, the shapes in which people write messages, and where the answers lie."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.core.errors import RequestError
from danlu.data.rows import BadField

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")

DEFAULT_TEMPLATE = """\
{%- if bos_token %}{{ bos_token }}{% endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + (eos_token or '') }}{% endgeneration %}{{ '\\n' }}
{%- else -%}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif -%}
"""
"""danlu's own chat template: a line for the role, then what was said; an answer ends with the end token."""

_ROLE_NAMES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}

Message = dict[str, Any]


def chosen_template(tokenizer: "PreTrainedTokenizerBase", template: str | None) -> str:
    """The Jinja text to use: the one asked for (`danlu`, a file, a text), else the tokenizer's, else danlu's own.

    Raises:
        RequestError: what was asked for is neither a template nor a file that holds one.
    """
    if template is None:
        own = tokenizer.chat_template
        return own if isinstance(own, str) and own else DEFAULT_TEMPLATE
    if template == "danlu":
        return DEFAULT_TEMPLATE
    if "{" in template:
        return template
    path = Path(template).expanduser()
    if not path.is_file():
        raise RequestError(
            f"{template!r} is neither a Jinja text nor a file",
            where="data.template",
            mend="Give a .jinja file, or `danlu` for danlu's own template",
        )
    return path.read_text(encoding="utf-8")


def read_messages(value: object, column: str, *, answered: bool = True) -> list[Message]:
    """The conversation in a column: `[{role, content}, ...]`, ShareGPT's `[{from, value}, ...]`, or either as JSON.

    Raises:
        BadField: it is none of these, or has no answer (unless `answered` is False: a question to a model has none).
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadField(
                column, f"is not JSON ({error})", 'Write it as [{"role": "user", "content": ...}, ...]'
            ) from error
    if value is None:
        raise BadField(column, "is empty (null)", "Fill it")
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise BadField(column, f"is a {type(value).__name__}, not a list of messages", "Make it a list of messages")
    if not value:
        raise BadField(column, "is an empty conversation", "Give it messages")
    messages = [_message(entry, at, column) for at, entry in enumerate(value, 1)]
    if answered and not any(message["role"] == "assistant" for message in messages):
        raise BadField(column, "has no message of the assistant, so there is nothing to learn", "Add an answer")
    return messages


def _message(entry: object, at: int, column: str) -> Message:
    if not isinstance(entry, Mapping):
        raise BadField(column, f"message {at} is a {type(entry).__name__}", "Write it as {role: ..., content: ...}")
    role = entry.get("role", entry.get("from"))
    content = entry.get("content", entry.get("value"))
    if not isinstance(role, str) or role.lower() not in _ROLE_NAMES:
        known = "system, user, assistant or tool"
        raise BadField(column, f"message {at} has the role {role!r}", f"Make it {known}")
    name = _ROLE_NAMES[role.lower()]
    if content is None and entry.get("tool_calls"):
        content = ""
    if not isinstance(content, (str, list)):
        raise BadField(column, f"message {at} has no text in content", "Fill it")
    more = {key: item for key, item in entry.items() if key not in ("role", "from", "content", "value")}
    return {"role": name, "content": content, **more}


def answer_bytes(messages: Sequence[Message]) -> int:
    """The UTF-8 bytes of all that the assistant says."""
    return sum(_content_bytes(message["content"]) for message in messages if message["role"] == "assistant")


def _content_bytes(content: object) -> int:
    if isinstance(content, str):
        return len(content.encode("utf-8", "surrogatepass"))
    parts = content if isinstance(content, list) else []
    return sum(_content_bytes(part.get("text")) for part in parts if isinstance(part, Mapping))


def encode_chat(
    tokenizer: "PreTrainedTokenizerBase", template: str, messages: list[Message], column: str
) -> tuple[np.ndarray, np.ndarray]:
    """(token ids, mask): the mask is True on the assistant's tokens, the end of each answer included.

    Templates with `{% generation %}` marks say where the answers are; for others each answer is found as what the
    template adds when the answer joins the conversation.

    Raises:
        BadField: the template refuses this conversation.
        RequestError: the template rewrites earlier turns, so that answers cannot be found.
    """
    from jinja2 import TemplateError

    try:
        if "generation %}" in template or "generation -%}" in template:
            encoded: Any = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            return np.asarray(encoded["input_ids"]), np.asarray(encoded["assistant_masks"], dtype=bool)
        return _encode_by_growth(tokenizer, template, messages)
    except (TemplateError, TypeError, ValueError) as error:
        raise BadField(
            column, f"the chat template refuses it ({error})".replace("\n", " "), "Mend the turns"
        ) from error


def _encode_by_growth(
    tokenizer: "PreTrainedTokenizerBase", template: str, messages: list[Message]
) -> tuple[np.ndarray, np.ndarray]:
    def render(upto: int, ask: bool) -> str:
        text = tokenizer.apply_chat_template(
            messages[:upto], chat_template=template, tokenize=False, add_generation_prompt=ask
        )
        return str(text)

    whole = render(len(messages), False)
    spans: list[tuple[int, int]] = []
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            before = render(at, True) if at else ""
            after = render(at + 1, False)
            if not (after.startswith(before) and whole.startswith(after)):
                raise RequestError(
                    "the chat template does not mark its answers and rewrites earlier turns, so they cannot be found",
                    where="data.template",
                    mend="Put {% generation %} ... {% endgeneration %} round the answer in a copy of the template, "
                    "or use `template: danlu`",
                )
            spans.append((len(before), len(after)))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    starts, ends = np.asarray(encoded["offset_mapping"]).reshape(-1, 2).T
    mask = np.zeros(len(starts), dtype=bool)
    for start, end in spans:
        mask |= (starts < end) & (ends > start) & (starts >= start)
    return np.asarray(encoded["input_ids"]), mask
