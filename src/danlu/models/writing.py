"""Text written by a causal language model: batched, streamed, and a pure function of its seed."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from danlu.core.config import Config
from danlu.core.errors import RequestError
from danlu.core.seeds import generator_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = Sequence[int]
BATCH_ROWS = 16
CONTEXT_TOKENS = 8


class Writing(Config):
    """How to choose each next token."""

    max_tokens: int = Field(default=200, ge=1)
    """tokens to write at most; fewer when the model ends its text or its context is full"""
    temperature: float = Field(default=0.8, ge=0.0)
    """below 1 the likely becomes likelier; 0 takes the likeliest token every time"""
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    """choose among the likeliest tokens that together have this probability"""
    seed: int = 0
    """the same seed gives the same text"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What was written after one prompt. `finish` is "end" when the model ended it, with the token `end`, and "length"
    when room ran out."""

    text: str
    ids: tuple[int, ...]
    finish: Literal["end", "length"]
    end: int | None = None


def write_texts(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Ids],
    writing: Writing,
    *,
    first_row: int = 0,
    numbers: Sequence[int] | None = None,
    batch_rows: int = BATCH_ROWS,
    say: Callable[[str], None] | None = None,
) -> list[Written]:
    """Continues each prompt (token ids), `batch_rows` at a time.

    Row i draws from its own numbers, seeded by (seed, numbers[i]), which is first_row + i unless it is given: its text
    depends neither on the rows beside it nor on how many there are. `say` is given the text in pieces as it is written;
    only for a single prompt.
    Cost: one forward of every prompt, then one of a token for each token written.

    Raises:
        RequestError: a prompt is empty, or leaves no room in the model's context.
    """
    if say is not None and len(prompts) != 1:
        raise ValueError("text is streamed for one prompt at a time")
    rooms = [_room(model, prompt, writing.max_tokens) for prompt in prompts]
    written: dict[int, Written] = {}
    with at_rest(model), torch.no_grad():
        for room in sorted(set(rooms), reverse=True):
            rows = [row for row, its_room in enumerate(rooms) if its_room == room]
            for at in range(0, len(rows), batch_rows):
                group = rows[at : at + batch_rows]
                ids = [list(prompts[row]) for row in group]
                seeds = [first_row + row if numbers is None else numbers[row] for row in group]
                found = _write_group(model, tokenizer, ids, writing, room=room, seeds=seeds, say=say)
                written.update(zip(group, found, strict=True))
    return [written[row] for row in range(len(prompts))]


def log_probabilities(model: nn.Module, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[float]:
    """Σ_t log p(answer_t | prompt, answer_<t) of each answer, in nats; the prompts must not be empty."""
    scores: list[float] = []
    with at_rest(model), torch.no_grad():
        for at in range(0, len(prompts), BATCH_ROWS):
            pairs = list(zip(prompts[at : at + BATCH_ROWS], answers[at : at + BATCH_ROWS], strict=True))
            scores += _score_group(model, pairs)
    return scores


@contextlib.contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Within it the model is in evaluation mode, dropout off; afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def context_of(model: nn.Module) -> int | None:
    """The longest text in tokens that the model has places for; None when it does not say."""
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(config, "max_position_embeddings", None)


class Pieces:
    """Turns tokens into text as they come, holding back bytes that are not yet a whole character.

    A few tokens of the prompt are kept before, since how a token reads may depend on its left neighbour.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", prompt: Ids) -> None:
        self._tokenizer: Any = tokenizer
        self._ids = list(prompt[-CONTEXT_TOKENS:])
        self._start, self._told = 0, len(self._ids)

    def push(self, token: int) -> str:
        """The text that became whole with this token."""
        self._ids.append(token)
        return self._next(held_back="\N{REPLACEMENT CHARACTER}")

    def flush(self) -> str:
        """What was held back, whole or not."""
        return self._next(held_back=None)

    def _next(self, held_back: str | None) -> str:
        before = self._decode(self._ids[self._start : self._told])
        whole = self._decode(self._ids[self._start :])
        if len(whole) <= len(before) or (held_back and whole.endswith(held_back)):
            return ""
        self._start, self._told = self._told, len(self._ids)
        return whole[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class _Draw:
    """A logits processor by which the likeliest token is a fair draw: argmax(log p / τ + Gumbel noise) ~ softmax.

    Source: Gumbel 1954; Maddison, Tarlow and Minka 2014. Each row has its own generator.
    """

    def __init__(self, writing: Writing, rows: Sequence[int], device: torch.device) -> None:
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        self._warp = LogitsProcessorList([TemperatureLogitsWarper(writing.temperature)])
        if writing.top_p < 1.0:
            self._warp.append(TopPLogitsWarper(writing.top_p))
        self._generators = [generator_of(writing.seed, "write", row, device="cpu") for row in rows]
        self._device = device

    def __call__(self, input_ids_BT: Tensor, scores_BV: Tensor) -> Tensor:
        scores_BV = self._warp(input_ids_BT, scores_BV.float())  # type: ignore[arg-type]
        uniform_BV = torch.stack([torch.rand(scores_BV.shape[1], generator=one) for one in self._generators])
        noise_BV = -torch.log(-torch.log(uniform_BV.clamp(1e-20, 1 - 1e-7)))
        return scores_BV + noise_BV.to(self._device)


class _Listener:
    """A streamer of transformers that tells the text of a lone row in pieces, its end token left out."""

    def __init__(self, pieces: Pieces, ends: set[int], say: Callable[[str], None]) -> None:
        self._pieces, self._ends, self._say = pieces, ends, say
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token in value.flatten().tolist():
            piece = "" if token in self._ends else self._pieces.push(token)
            if piece:
                self._say(piece)

    def end(self) -> None:
        if piece := self._pieces.flush():
            self._say(piece)


def _write_group(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[list[int]],
    writing: Writing,
    *,
    room: int,
    seeds: Sequence[int],
    say: Callable[[str], None] | None,
) -> list[Written]:
    ends = _ends(model, tokenizer)
    ids_BT, mask_BT = _padded_left(prompts, model.device)
    made_BT = model.generate(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        generation_config=_settings(room, ends),
        logits_processor=[_Draw(writing, seeds, model.device)] if writing.temperature > 0 else None,
        streamer=_Listener(Pieces(tokenizer, prompts[0]), ends, say) if say else None,
        synced_gpus=False,  # within full_weights one process may write alone: it must not wait for the others' words
    )
    return [
        _written(tokenizer, prompt, row.tolist(), ends)
        for prompt, row in zip(prompts, made_BT[:, ids_BT.shape[1] :], strict=True)
    ]


def _settings(room: int, ends: set[int]) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=room,
        do_sample=False,
        use_cache=True,
        eos_token_id=sorted(ends) or None,
        pad_token_id=min(ends, default=0),
        return_dict_in_generate=False,
    )


def _written(tokenizer: "PreTrainedTokenizerBase", prompt: Ids, made: list[int], ends: set[int]) -> Written:
    length = next((at for at, token in enumerate(made) if token in ends), len(made))
    pieces = Pieces(tokenizer, prompt)
    text = "".join([*(pieces.push(token) for token in made[:length]), pieces.flush()])
    ended = length < len(made)
    return Written(
        text=text,
        ids=tuple(made[:length]),
        finish="end" if ended else "length",
        end=made[length] if ended else None,
    )


def _score_group(model: Any, pairs: Sequence[tuple[Ids, Ids]]) -> list[float]:
    whole = [[*prompt, *answer] for prompt, answer in pairs]
    longest = max(map(len, whole))
    ids_BT = torch.zeros(len(whole), longest, dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for row, ids in enumerate(whole):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, : len(ids)] = 1
    logits_BTV = model(
        input_ids=ids_BT.to(model.device), attention_mask=mask_BT.to(model.device), use_cache=False
    ).logits
    scores = []
    for row, (prompt, answer) in enumerate(pairs):
        logits_TV = logits_BTV[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].float()
        chosen_T = torch.tensor(list(answer), device=logits_TV.device, dtype=torch.int64)
        scores.append(float(logits_TV.log_softmax(-1).gather(1, chosen_T[:, None]).sum()))
    return scores


def _room(model: nn.Module, prompt: Ids, max_tokens: int) -> int:
    if not len(prompt):
        raise RequestError("there is nothing to go on from", where="the prompt", mend="Give at least one word")
    limit = context_of(model)
    if limit is None:
        return max_tokens
    if len(prompt) >= limit:
        raise RequestError(
            f"it has {len(prompt)} tokens and the model's context holds {limit}",
            where="the prompt",
            mend="Shorten it, so that there is room for an answer",
        )
    return min(max_tokens, limit - len(prompt))


def _ends(model: Any, tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """The tokens that end a text, by the model's own settings and the tokenizer's."""
    told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = {told} if isinstance(told, int) else set(told or ())
    return found | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set())


def _padded_left(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids_BT = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):
        ids_BT[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, longest - len(prompt) :] = 1
    return ids_BT.to(device), mask_BT.to(device)
