"""Layers: which of a student's layers learn from which of a teacher's, and how much each position counts."""

from typing import Literal, cast

import torch
from torch import Tensor

from danlu.core.batch import IGNORED, Batch
from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.core.technique import Extra

Layers = Literal["uniform", "last"] | dict[int, int]


def layer_pairs(layers: Layers, ours: int, theirs: int, *, first: int, where: str) -> list[tuple[int, int]]:
    """(the student's layer, the teacher's), both counted from 1; 0 is the embedding where `first` is 0.

    uniform: layer m of M learns from layer round(m N / M) of N (Jiao et al. 2020, "TinyBERT", section 5.1).

    Raises:
        RequestError: there is no such layer.
    """
    if layers == "last":
        return [(ours, theirs)]
    if layers == "uniform":
        return [(layer, round(layer * theirs / ours)) for layer in range(1, ours + 1)]
    for pair in layers.items():
        for layer, count, who in zip(pair, (ours, theirs), ("student", "teacher"), strict=True):
            if not first <= layer <= count:
                problem = f"the {who} has no layer {layer}"
                raise RequestError(problem, where=f"{where}.layers", mend=f"Its layers are {first} to {count}")
    return list(layers.items())


def stack_of(outputs: Outputs, name: Extra, where: str) -> tuple[Tensor, ...]:
    """What each layer gave; of an encoder-decoder, the decoder's.

    Raises:
        RequestError: the model does not give it.
    """
    found = outputs.extra.get(name) or outputs.extra.get(f"decoder_{name}")
    if not isinstance(found, tuple) or not found or not all(isinstance(one, Tensor) for one in found):
        problem = f"{type(outputs.model).__name__} gives no {name.replace('_', ' ')} in this task"
        raise RequestError(problem, where=where, mend="Use distil_logits")
    return cast(tuple[Tensor, ...], found)


def position_weights(batch: Batch, shape: torch.Size) -> Tensor:
    """(B, T): how much each position of the hidden states counts; a row's add up to its targets, times its weight.

    Where targets stand at tokens, these count, one each; otherwise all that is no padding, alike.
    """
    tokens_BT, mask_BT = batch.labels.get("tokens"), batch.inputs.get("attention_mask")
    if isinstance(tokens_BT, Tensor) and tokens_BT.shape == shape:
        weights_BT = (tokens_BT != IGNORED).float()
    else:
        given = isinstance(mask_BT, Tensor) and mask_BT.shape == shape
        real_BT = cast(Tensor, mask_BT).float() if given else torch.ones(shape, device=batch.targets_B.device)
        weights_BT = real_BT / real_BT.sum(1, keepdim=True).clamp_min(1.0) * batch.targets_B[:, None]
    return weights_BT if batch.weights_B is None else weights_BT * batch.weights_B[:, None]
