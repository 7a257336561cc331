"""Random erasing: a rectangle of the picture is lost."""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from danlu.core.batch import Batch
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths.augment import rectangles
from danlu.techniques._pictures import draws, pictures, spread, with_pictures


class RandomErasing(Technique):
    """Covers a rectangle of some pictures, so that no single part decides.

        area a ~ U[least, most] of the picture, height : width r ~ exp U[−ln stretch, ln stretch], place even within it

    Source: Zhong et al. 2020, "Random Erasing Data Augmentation", algorithm 1 (r log-even, as in timm and torchvision;
    sides are cut to the picture's instead of drawn again). With `fill: zero` the rectangle gets the mean colour of the
    data, with `noise` normal noise, both in normalised values. Boxes stay. Cost: one pass over the pictures.

    When not: where the object is small enough to be covered whole.
    """

    after: ClassVar[tuple[str, ...]] = ("affine", "colour", "crop", "flip", "mosaic", "rand_augment")
    off: ClassVar[Mapping[str, object]] = {"p": 0.0}
    example: ClassVar[Mapping[str, object]] = {"p": 0.9}

    p: float = Field(default=0.25, ge=0.0, le=1.0)
    """the chance of a picture to lose a part"""
    least: float = Field(default=0.02, gt=0.0, le=1.0)
    """the least share of the picture's area"""
    most: float = Field(default=1 / 3, gt=0.0, le=1.0)
    """the largest share of the picture's area"""
    stretch: float = Field(default=10 / 3, ge=1.0, lt=math.inf)
    """how much taller than wide, or wider than tall, the rectangle may be"""
    fill: Literal["zero", "noise"] = "zero"
    """what stands there instead"""

    def model_post_init(self, _context: object) -> None:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) must not be above most ({self.most})")

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        images_BCHW = pictures(batch, ctx)
        if images_BCHW is None or self.p == 0.0:
            return batch
        draws_B5 = draws("random_erasing", batch, ctx, 5)
        area_B = spread(draws_B5[:, 0], self.least, self.most)
        ratio_B = torch.exp(spread(draws_B5[:, 1], -math.log(self.stretch), math.log(self.stretch)))
        sides_B2 = torch.stack([(area_B / ratio_B).sqrt(), (area_B * ratio_B).sqrt()], 1).clamp(max=1.0)
        sides_B2 = torch.where(draws_B5[:, 4:] < self.p, sides_B2, 0.0)
        centres_B2 = sides_B2 / 2 + (1 - sides_B2) * draws_B5[:, 2:4]
        inside_BHW = rectangles(centres_B2, sides_B2, images_BCHW.shape[2:]).to(images_BCHW.device)
        fill_BCHW = torch.zeros_like(images_BCHW) if self.fill == "zero" else self._noise(images_BCHW, batch, ctx)
        return with_pictures(batch, torch.where(inside_BHW[:, None], fill_BCHW, images_BCHW))

    def _noise(self, images_BCHW: torch.Tensor, batch: Batch, ctx: StepContext) -> torch.Tensor:
        count = math.prod(images_BCHW.shape[1:])
        draws_BN = draws("random_erasing noise", batch, ctx, count).clamp(1e-6, 1 - 1e-6)
        return torch.special.ndtri(draws_BN).to(images_BCHW).view_as(images_BCHW)
