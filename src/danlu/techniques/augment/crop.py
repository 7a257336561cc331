"""Crop: a random part of the picture, enlarged to its size."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths import augment
from danlu.techniques._pictures import boxes_of, draws, pictures, spread, with_pictures


class Crop(Technique):
    """Shows a random part of each picture, enlarged to the size of the whole (random resized crop).

        area a ~ U[scale, 1] of the picture; width : height r ~ exp U[−ln stretch, ln stretch]; place even

    Source: Szegedy et al. 2015, "Going Deeper with Convolutions", section 6. The part is at most the picture; its
    pixels are taken bilinearly. Boxes move along; those of which less than `visible` is left are dropped. What a
    picture draws depends on seed, step and example. Pictures only: other batches stay as they are. Cost: some ms a
    batch.

    When not: where what matters is small or stands at the edge; with too small a scale the object itself is cut away.
    """

    after: ClassVar[tuple[str, ...]] = ("mosaic",)
    off: ClassVar[Mapping[str, object]] = {"p": 0.0}
    example: ClassVar[Mapping[str, object]] = {"scale": 0.3}

    p: float = Field(default=1.0, ge=0.0, le=1.0)
    """the chance of a picture to be cropped"""
    scale: float = Field(default=0.35, gt=0.0, le=1.0)
    """the least share of the picture's area that is shown"""
    stretch: float = Field(default=4 / 3, ge=1.0)
    """how much wider or taller than the picture's own proportions the part may be"""
    visible: float = Field(default=0.3, ge=0.0, le=1.0)
    """a box with less than this share of its area inside is dropped"""

    @field_validator("stretch")
    @classmethod
    def _is_finite(cls, stretch: float) -> float:
        if not math.isfinite(stretch):
            raise ValueError("give a finite number")
        return stretch

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        images_BCHW, boxes = pictures(batch, ctx), boxes_of(batch)
        if images_BCHW is None or self.p == 0.0:
            return batch
        maps_B23 = augment.crop_maps(self._windows(draws("crop", batch, ctx, 5)))
        cropped = augment.affine(images_BCHW, maps_B23.to(images_BCHW.device))
        moved = None if boxes is None else augment.affine_boxes(boxes, maps_B23)
        return with_pictures(batch, cropped, moved, self.visible)

    def _windows(self, draws_B5: Tensor) -> Tensor:
        """(B, 4): left, top, width and height as shares of the picture."""
        area_B = spread(draws_B5[:, 0], self.scale, 1.0)
        ratio_B = torch.exp(spread(draws_B5[:, 1], -math.log(self.stretch), math.log(self.stretch)))
        sides_B2 = torch.stack([(area_B * ratio_B).sqrt(), (area_B / ratio_B).sqrt()], 1).clamp(max=1.0)
        sides_B2 = torch.where(draws_B5[:, 4:] < self.p, sides_B2, torch.ones_like(sides_B2))
        return torch.cat([(1 - sides_B2) * draws_B5[:, 2:4], sides_B2], 1)
