"""Generate: a language model continues a text, or answers in a chat, while one looks on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import RequestError
from danlu.models.writing import Writing, write_texts
from danlu.stages.trained import OpenModel, open_model
from danlu.tasks._text_output import TextOptions, asking_encoder


def generate(
    model: str | Path | OpenModel,
    prompt: str,
    *,
    writing: Writing | None = None,
    chat: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """What the model writes after `prompt`; the same seed gives the same text.

    Args:
        model: a run folder, a model's folder, a .gguf file or a hub name; or one that is open already.
        prompt: what to go on from; empty starts a new text.
        writing: how many tokens, temperature, top-p and seed.
        chat: put the prompt into the tokenizer's chat template; when absent, as the model was trained.
        say: given the text piece by piece as it is written.

    Raises:
        RequestError: there is no such model, it does not write text, a chat is asked for and there is no template, or
            the prompt leaves no room.
    """
    opened = model if isinstance(model, OpenModel) else open_model(model)
    if opened.task.auto_class != "AutoModelForCausalLM":
        raise RequestError(
            f"a model for {opened.task.kind()} does not write text", where=str(model), mend="Use danlu predict"
        )
    ids = prompt_ids(opened, prompt, chat)
    [written] = write_texts(opened.model, opened.tools, [ids], writing or Writing(), say=say)
    return written.text


def prompt_ids(opened: OpenModel, prompt: str, chat: bool | None) -> Sequence[int]:
    """The tokens that the model is given for a prompt, in the form that it met in training or in a chat."""
    tokenizer: Any = opened.tools
    if not prompt:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        return [] if start is None else [start]
    said = {name: opened.data[name] for name in ("format", "template") if opened.data.get(name) is not None}
    spoken = chat if chat is not None else said.get("format") in ("prompt", "messages")
    options = TextOptions.model_validate({**said, "format": "prompt" if spoken else "text", "chat": chat or None})
    role = "prompt" if spoken else "text"
    return asking_encoder(tokenizer, {role: prompt}, options).prompt_ids({role: prompt}).tolist()
