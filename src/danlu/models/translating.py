"""What an encoder-decoder writes for a source: greedy or beam search by transformers' own `generate`, in batches."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from danlu.models.writing import at_rest


def start_of(model: nn.Module) -> int:
    """The token that the decoder is given first; where a family names none, the padding, as in T5 and Marian."""
    inner: Any = model
    said = (getattr(inner.generation_config, "decoder_start_token_id", None), inner.config.pad_token_id)
    return next((token for token in said if token is not None), 0)


@torch.no_grad()
def translated_ids(
    model: nn.Module, inputs: Mapping[str, Tensor], *, beams: int = 1, first: int | None = None, limit: int
) -> list[list[int]]:
    """The tokens written for each row of `inputs` (input_ids and attention_mask, (B, S)), without the end token.

    A row may become twice as long as its source and 16 tokens more, and with its end `limit` tokens at most, so that
    what it gives does not depend on the rows beside it. `first` is a token that every translation begins with (a
    language's mark).
    Cost: one forward of the encoder, then one token of `beams` rows in turn, until the last row has ended.
    """
    inner: Any = model
    rooms = (2 * inputs["attention_mask"].sum(1) + 16).clamp(max=limit - 1).tolist()
    settings = copy.deepcopy(inner.generation_config)
    settings.update(
        max_length=None,
        max_new_tokens=max(rooms) + 1,  # some families force the end token in the last place
        num_beams=beams,
        do_sample=False,
        use_cache=True,
        decoder_start_token_id=start_of(model),
        forced_bos_token_id=settings.forced_bos_token_id if first is None else first,
        return_dict_in_generate=False,
    )
    with at_rest(model):  # within full_weights one process may write alone: it must not wait for the others' words
        made_BT = inner.generate(**inputs, generation_config=settings, synced_gpus=False)
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    rows = []
    for room, row in zip(rooms, made_BT[:, 1:].tolist(), strict=True):
        length = next((at for at, token in enumerate(row) if token in ends), len(row))
        rows.append(row[: min(length, room)])
    return rows
