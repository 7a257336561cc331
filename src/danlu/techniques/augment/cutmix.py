"""CutMix: a part of each picture is replaced by that of a partner, and the classes are asked for by area."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths.augment import rectangles
from danlu.techniques._mixing import loss_of_partners, mixed, partners
from danlu.techniques._pictures import draws


class Cutmix(Technique):
    """Puts a rectangle of another picture of the batch over each one, and asks for both classes by their areas.

        x ← M ⊙ x + (1 − M) ⊙ x',  M zero in a rectangle of W √(1 − λ) × H √(1 − λ) about an even place, cut off at
        the edges,    L = λ' CE(y) + (1 − λ') CE(y'),  1 − λ' the rectangle's share,    λ ~ Beta(α, α)

    Source: Yun et al. 2019, "CutMix", equations 1 and 2 and algorithm 1 of its appendix; λ is drawn for each row.
    Partners are found as `mixup` finds them. Pictures of one class each only. Cost: one pass over the pictures.

    When not: for detection (see `mosaic`), and where the object fills little of the picture: its class would be asked
    for where only ground was put.
    """

    after: ClassVar[tuple[str, ...]] = ("affine", "colour", "crop", "flip", "rand_augment", "random_erasing")
    conflicts: ClassVar[tuple[str, ...]] = ("mixup",)
    off: ClassVar[Mapping[str, object]] = {"p": 0.0}
    example: ClassVar[Mapping[str, object]] = {"p": 0.9}

    p: float = Field(default=0.5, ge=0.0, le=1.0)
    """the chance of a picture to get a part of another"""
    alpha: float = Field(default=1.0, gt=0.0)
    """the shape of λ's distribution: at 1 the part's area is even between nothing and all"""

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        found = partners("cutmix", batch, ctx, p=self.p, alpha=self.alpha) if self.p else None
        if found is None:
            return batch
        sides_B2 = found.shares_B.sqrt()[:, None].expand(-1, 2)
        centres_B2 = draws("cutmix", batch, ctx, 2)
        inside_BHW = rectangles(centres_B2, sides_B2, found.own_BCHW.shape[2:]).to(found.own_BCHW.device)
        images_BCHW = torch.where(inside_BHW[:, None], found.other_BCHW, found.own_BCHW)
        return mixed(batch, images_BCHW, found, inside_BHW.float().mean((1, 2)))

    def loss_terms(
        self, outputs: Outputs, batch: Batch, ctx: StepContext, state: TechniqueState | None
    ) -> Mapping[str, Tensor]:
        return loss_of_partners("cutmix", outputs, batch, ctx)
