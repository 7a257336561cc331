"""What a causal language model writes when asked: samples in a run, predictions for a file."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from danlu.data.text import TextEncoder
from danlu.models.generation import Sampling, complete

Row = Mapping[str, object]


class PredictOptions(Sampling):
    """How `danlu predict` writes: as `danlu generate`, but the likeliest tokens unless told otherwise."""

    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token"""
    batch: int = Field(default=8, ge=1)
    """prompts that are answered at once"""


def answers(
    model: Any, tokenizer: Any, encoder: TextEncoder, rows: Iterable[Row], options: PredictOptions
) -> Iterator[dict[str, object]]:
    """Each row with a `prediction` added, in order; memory does not grow with the rows."""
    pending = iter(rows)
    while batch := list(itertools.islice(pending, options.batch)):
        prompts = [fitting(encoder.prompt_ids(row).tolist(), encoder.context, options) for row in batch]
        for row, tokens in zip(batch, _complete(model, tokenizer, prompts, options), strict=True):
            yield {**row, "prediction": tokenizer.decode(tokens, skip_special_tokens=True)}


def continued(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[dict[str, str]]:
    """Samples: what the model makes of some beginnings, as `prompt` and `text`."""
    texts = _complete(model, tokenizer, prompts, sampling)
    return [
        {
            "prompt": tokenizer.decode(prompt, skip_special_tokens=True),
            "text": tokenizer.decode(tokens, skip_special_tokens=True),
        }
        for prompt, tokens in zip(prompts, texts, strict=True)
    ]


def fitting(prompt: list[int], context: int, sampling: Sampling) -> list[int]:
    """The end of a prompt that leaves room for the answer, or for half the context where there is none."""
    room = max(context - sampling.max_tokens, context // 2)
    return prompt[-room:]


def _complete(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return complete(model, prompts, sampling, pad=pad, end=tokenizer.eos_token_id)
