"""What techniques that change pictures share: random draws by row, and the pictures and boxes of a batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from danlu.core.batch import Batch, Field
from danlu.core.seeds import seed_of
from danlu.core.technique import StepContext
from danlu.data.hashing import mix_many
from danlu.maths import augment


def pictures(batch: Batch, ctx: StepContext) -> Tensor | None:
    """(B, C, H, W) on the run's device, where they are changed fastest; None where the batch holds none."""
    pixels = batch.inputs.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.ndim != 4:
        return None
    return pixels.to(ctx.device, non_blocking=True)


def draws(name: str, batch: Batch, ctx: StepContext, count: int) -> Tensor:
    """(B, count) even in [0, 1) as fp32: a function of seed, step and example, so that company does not matter."""
    ids_B = batch.example_ids_B.cpu().numpy().astype(np.uint64)
    hashes_B = mix_many(ids_B, seed_of(ctx.seed, name, ctx.clock.step))
    hashes_BK = mix_many(hashes_B[:, None] ^ np.arange(1, count + 1, dtype=np.uint64)[None])
    return torch.from_numpy((hashes_BK >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24))


def spread(draws_B: Tensor, low: float, high: float) -> Tensor:
    """Draws in [0, 1) brought to [low, high)."""
    return low + (high - low) * draws_B


def pixel_scale(model: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and deviation (3,) with which pictures are normalised, as the model's config says; else 0 and 1."""
    config = getattr(model, "config", None)
    mean, std = (getattr(config, name, None) for name in ("image_mean", "image_std"))
    return like.new_tensor(mean or [0.0] * 3), like.new_tensor(std or [1.0] * 3)


def with_pictures(
    batch: Batch, images_BCHW: Tensor, boxes: Sequence[Tensor] | None = None, visible: float = 0.0
) -> Batch:
    """The batch with other pictures and, where they moved, the boxes cut off at the edges.

    Boxes of which less than the share `visible` is left are dropped, with all that the labels say of them; a row's
    targets are its boxes.
    """
    changed = batch.replace(inputs={**batch.inputs, "pixel_values": images_BCHW})
    if boxes is None:
        return changed
    cut, kept = augment.clip_boxes(boxes, visible=visible)
    return with_boxes(changed, cut, {name: _chosen(field, kept) for name, field in _of_boxes(batch).items()})


def with_boxes(batch: Batch, boxes: Sequence[Tensor], others: dict[str, Field]) -> Batch:
    """The batch with other boxes, and what the labels say of them."""
    counts_B = batch.targets_B.new_tensor([len(entry) for entry in boxes])
    if batch.weights_B is not None:
        counts_B = counts_B * (batch.weights_B != 0)  # a muted row stays so
    return batch.replace(labels={**batch.labels, **others, "boxes": tuple(boxes)}, targets_B=counts_B)


def boxes_of(batch: Batch) -> tuple[Tensor, ...] | None:
    """The rows' boxes (n, 4), or None where the batch has none."""
    boxes = batch.labels.get("boxes")
    return boxes if isinstance(boxes, tuple) else None


def _of_boxes(batch: Batch) -> dict[str, tuple[Tensor, ...]]:
    """The other labels that hold an entry for each box."""
    found = {name: field for name, field in batch.labels.items() if isinstance(field, tuple) and name != "boxes"}
    lengths = [len(entry) for entry in boxes_of(batch) or ()]
    return {name: field for name, field in found.items() if [len(entry) for entry in field] == lengths}


def _chosen(field: tuple[Tensor, ...], kept: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(entry[stays.to(entry.device)] for entry, stays in zip(field, kept, strict=True))


def gathered(batch: Batch, origins: Sequence[Tensor]) -> dict[str, Field]:
    """The labels of boxes that now stand in other rows: of each row (m, 2) the row and place that a box comes from."""
    return {
        name: tuple(
            torch.stack([field[row][place] for row, place in entry.tolist()]) if len(entry) else field[0][:0]
            for entry in origins
        )
        for name, field in _of_boxes(batch).items()
    }
