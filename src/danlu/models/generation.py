"""Continues token sequences with a causal language model, several at once."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.config import Config


class Sampling(Config):
    """How the next token is chosen."""

    max_tokens: int = Field(default=128, ge=1)
    """how many tokens to write at most"""
    temperature: float = Field(default=0.8, ge=0)
    """divides the logits before the softmax; 0 takes the likeliest token"""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """the smallest set of tokens with at least this probability is drawn from (Holtzman et al. 2019)"""
    seed: int = Field(default=0, ge=0)
    """the same seed gives the same text"""


@torch.no_grad()
def complete(
    model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, *, pad: int, end: int | None, streamer: Any = None
) -> list[list[int]]:
    """The tokens that follow each prompt, up to and without the end token.

    Args:
        model: a causal language model of transformers, or peft around one; its mode is put back afterwards.
        prompts: token ids, none of them empty; they are padded on the left.
        sampling: how to choose.
        pad: the token that fills up shorter prompts.
        end: the token at which a text is over; None writes `max_tokens`.
        streamer: as transformers takes it, told each token of a lone prompt.
    """
    longest = max(map(len, prompts))
    tokens_BT = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    choice: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if sampling.temperature > 0:
        choice = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    device = next(model.parameters()).device
    torch.manual_seed(sampling.seed)
    with evaluation_mode(model):
        written_BT = model.generate(
            input_ids=tokens_BT.to(device),
            attention_mask=mask_BT.to(device),
            max_new_tokens=sampling.max_tokens,
            pad_token_id=pad,
            eos_token_id=end,
            streamer=streamer,
            **choice,
        )
    return [_until(row_T[longest:], end) for row_T in written_BT]


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within it the model is in evaluation mode (no dropout); afterwards in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _until(tokens_T: Tensor, end: int | None) -> list[int]:
    tokens = tokens_T.tolist()
    return tokens[: tokens.index(end)] if end in tokens else tokens
