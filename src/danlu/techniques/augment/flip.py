"""Flip: pictures mirrored left to right."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from danlu.core.batch import Batch
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths import augment
from danlu.techniques._pictures import boxes_of, draws, pictures, with_pictures


class Flip(Technique):
    """Mirrors some of the pictures left to right, with their boxes.

        x ← W − x with probability p

    Source: Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks", section 4.1. What
    a picture draws depends on seed, step and example. Pictures only: other batches stay as they are. Cost: little.

    When not: where left and right matter (digits, letters, road signs).
    """

    after: ClassVar[tuple[str, ...]] = ("mosaic",)
    off: ClassVar[Mapping[str, object]] = {"p": 0.0}
    example: ClassVar[Mapping[str, object]] = {"p": 0.5}

    p: float = Field(default=0.5, ge=0.0, le=1.0)
    """the chance of a picture to be mirrored"""

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        images_BCHW, boxes = pictures(batch, ctx), boxes_of(batch)
        if images_BCHW is None or self.p == 0.0:
            return batch
        chosen_B = draws("flip", batch, ctx, 1)[:, 0] < self.p
        flipped = augment.flip(images_BCHW, chosen_B.to(images_BCHW.device))
        return with_pictures(batch, flipped, None if boxes is None else augment.flip_boxes(boxes, chosen_B))
