"""Mosaic: parts of four pictures make one, with their boxes."""

import torch
from pydantic import Field

from danlu.core.batch import Batch
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths import augment
from danlu.techniques._pictures import boxes_of, draws, gathered, pictures, with_boxes, with_pictures


class Mosaic(Technique):
    """Puts four pictures together in one point and shows a window round it, with the boxes of all four.

        window of H × W on a canvas of 2H × 2W; the meeting point even in the middle of it, in whole pixels

    Source: Bochkovskiy et al. 2020, "YOLOv4", section 3.4. Nothing is scaled: every pixel is a picture's own, so
    combine it with `affine` or `crop` for objects of other sizes. The first picture is the row's own; the other three
    are drawn from the rows that this process holds, so unlike with the other augmentations the result depends on how
    the batch is shared out among processes. Batches with boxes only: others stay as they are. Cost: a copy of the
    pictures.

    When not: where the surroundings tell (a picture's whole scene), or in the last epochs: switch it off for these.
    """

    p: float = Field(default=0.5, ge=0.0, le=1.0)
    """the chance of a picture to become a mosaic"""
    margin: float = Field(default=0.25, ge=0.0, le=0.5)
    """how far the meeting point keeps from the edges, as a share of the side"""
    visible: float = Field(default=0.3, ge=0.0, le=1.0)
    """a box with less than this share of its area inside is dropped"""

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        images_BCHW, boxes = pictures(batch, ctx), boxes_of(batch)
        if images_BCHW is None or boxes is None or self.p == 0.0:
            return batch
        num_rows, (height, width) = batch.num_rows, images_BCHW.shape[2:]
        draws_B6 = draws("mosaic", batch, ctx, 6)
        sides_2 = torch.tensor([height, width])
        corners_B2 = ((self.margin + (1 - 2 * self.margin) * draws_B6[:, :2]) * sides_2).round().long()
        partners_B4 = torch.cat([torch.arange(num_rows)[:, None], (draws_B6[:, 2:5] * num_rows).long()], 1)
        alone_B = draws_B6[:, 5] >= self.p  # these meet in the lower right corner, so that the first picture is all
        corners_B2[alone_B] = sides_2
        made = augment.mosaic(images_BCHW, partners_B4, corners_B2)
        moved, origins = augment.mosaic_boxes(boxes, partners_B4, corners_B2, height=height, width=width)
        whole = with_boxes(batch, moved, gathered(batch, origins))
        return with_pictures(whole, made, moved, self.visible)
