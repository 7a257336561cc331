"""Affine: pictures turned, scaled, slanted and shifted a little."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from danlu.core.batch import Batch
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths import augment
from danlu.techniques._pictures import boxes_of, draws, pictures, spread, with_pictures


class Affine(Technique):
    """Turns, scales, slants and shifts each picture a little, about its centre.

        p ← s R(θ) K(φ) p + t,  θ, φ, t ~ U[−limit, limit],  s ~ U[1 − scale, 1 + scale]

    Source: Simard et al. 2003, "Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis",
    section 2. Pixels are taken bilinearly. A box becomes the smallest upright one round its moved corners; those of
    which less than `visible` is left are dropped. What a picture draws depends on seed, step and example. Pictures
    only: other batches stay as they are. Cost: some ms a batch.

    When not: large turns for what has an upright (a 6 becomes a 9); boxes grow loose with large turns.
    """

    after: ClassVar[tuple[str, ...]] = ("mosaic",)
    off: ClassVar[Mapping[str, object]] = {"degrees": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0}
    example: ClassVar[Mapping[str, object]] = {"degrees": 20.0, "shift": 0.2}

    degrees: float = Field(default=10.0, ge=0.0, le=180.0)
    """the largest turn either way"""
    scale: float = Field(default=0.1, ge=0.0, lt=1.0)
    """the largest change of size, as a share"""
    shear: float = Field(default=0.0, ge=0.0, lt=60.0)
    """the largest slant either way, in degrees"""
    shift: float = Field(default=0.1, ge=0.0, le=1.0)
    """the largest shift, as a share of width and of height"""
    outside: Literal["edge", "mean"] = "edge"
    """what comes in from beyond the picture: its edge goes on, or the mean colour of the data"""
    visible: float = Field(default=0.3, ge=0.0, le=1.0)
    """a box with less than this share of its area inside is dropped"""

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        images_BCHW, boxes = pictures(batch, ctx), boxes_of(batch)
        if images_BCHW is None or self.degrees == self.scale == self.shear == self.shift == 0.0:
            return batch
        draws_B5 = draws("affine", batch, ctx, 5)
        maps_B23 = augment.affine_maps(
            spread(draws_B5[:, 0], -self.degrees, self.degrees),
            spread(draws_B5[:, 1], 1 - self.scale, 1 + self.scale),
            spread(draws_B5[:, 2], -self.shear, self.shear),
            torch.stack([spread(draws_B5[:, at], -self.shift, self.shift) for at in (3, 4)], 1),
            height=images_BCHW.shape[2],
            width=images_BCHW.shape[3],
        )
        made = augment.affine(images_BCHW, maps_B23.to(images_BCHW.device), outside=self.outside)
        moved = None if boxes is None else augment.affine_boxes(boxes, maps_B23)
        return with_pictures(batch, made, moved, self.visible)
