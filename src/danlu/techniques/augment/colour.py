"""Colour: brightness, contrast, saturation and hue changed a little."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from danlu.core.batch import Batch
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths import augment
from danlu.techniques._pictures import draws, pictures, pixel_scale, spread, with_pictures


class Colour(Technique):
    """Changes brightness, contrast, saturation and hue of each picture a little (colour jitter).

        x ← H(h) S(s) [c b x + (1 − c) mean grey(b x)],  b, c, s ~ U[1 − limit, 1 + limit],  h ~ U[−hue, hue] turns

    Source: Howard 2013, "Some Improvements on Deep Convolutional Neural Network Based Image Classification", section
    2.2; brightness, contrast and saturation as in PIL's ImageEnhance, hue at constant brightness in YIQ. Values stay in
    [0, 1] before normalisation. What a picture draws depends on seed, step and example. Pictures of three channels
    only: other batches stay as they are. Cost: one small product a pixel.

    When not: where the colour is the class (ripe and unripe), or for grey pictures beyond brightness and contrast.
    """

    after: ClassVar[tuple[str, ...]] = ("mosaic",)
    off: ClassVar[Mapping[str, object]] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    example: ClassVar[Mapping[str, object]] = {"brightness": 0.5}

    brightness: float = Field(default=0.3, ge=0.0, le=1.0)
    """the largest change of brightness, as a share"""
    contrast: float = Field(default=0.3, ge=0.0, le=1.0)
    """the largest change of contrast, as a share"""
    saturation: float = Field(default=0.3, ge=0.0, le=1.0)
    """the largest change of saturation, as a share"""
    hue: float = Field(default=0.0, ge=0.0, le=0.5)
    """the largest turn of the colours, as a share of a full turn"""

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        images_B3HW = pictures(batch, ctx)
        unchanged = self.brightness == self.contrast == self.saturation == self.hue == 0.0
        if images_B3HW is None or images_B3HW.shape[1] != 3 or unchanged:
            return batch
        mean_3, std_3 = pixel_scale(ctx.model, images_B3HW)
        draws_B4 = draws("colour", batch, ctx, 4).to(images_B3HW)
        limits = (self.brightness, self.contrast, self.saturation)
        bright_B, contrast_B, saturation_B = (
            spread(draws_B4[:, at], 1 - limit, 1 + limit) for at, limit in enumerate(limits)
        )
        hue_B = spread(draws_B4[:, 3], -self.hue, self.hue)
        means_B3 = images_B3HW.mean((2, 3)) * std_3 + mean_3
        maps = augment.colour_maps(means_B3, bright_B, contrast_B, saturation_B, hue_B)
        return with_pictures(batch, augment.colour(images_B3HW, *maps, mean_3=mean_3, std_3=std_3))
