"""RandAugment: a few changes to each picture, drawn from fourteen, all of one strength."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.maths import augment, tones
from danlu.techniques._pictures import boxes_of, draws, pictures, pixel_scale, with_pictures

LARGEST = 30
"""the magnitude at which every change is as strong as it gets"""
GEOMETRY = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331, "rotate": 30.0}
"""and the strength that it has there: shares, or degrees"""
COLOUR = ("brightness", "colour", "contrast")
TONES = ("sharpness", "posterize", "solarize", "autocontrast", "equalize")
CHANGES = (*GEOMETRY, *COLOUR, *TONES, "identity")


class RandAugment(Technique):
    """Draws `num_ops` of fourteen changes for each picture, one after the other, at one common magnitude.

        identity, autocontrast, equalize, rotate, solarize, colour, posterize, contrast, brightness, sharpness,
        shear x, shear y, translate x, translate y

    Source: Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced search space", figure
    2; strengths as in torchvision: at magnitude m of 30, s = m / 30: rotate 30 s degrees, shear 0.3 s, translate
    0.45 s, colour, contrast, brightness and sharpness 1 ± 0.9 s, solarize above 255 (1 − s), posterize to 8 − 4 s bits.
    Signs are drawn. Boxes move along; those of which less than `visible` is left are dropped. Tones work on whole
    bytes, as PIL's do. Pictures of three channels only. Cost: each change goes over the rows that drew it.

    When not: where direction, tone or colour is the class (6 and 9, stains, ripeness).
    """

    after: ClassVar[tuple[str, ...]] = ("mosaic", "crop", "flip")
    conflicts: ClassVar[tuple[str, ...]] = ("affine", "colour")
    off: ClassVar[Mapping[str, object]] = {"num_ops": 0}
    example: ClassVar[Mapping[str, object]] = {"num_ops": 2, "magnitude": 15}

    num_ops: int = Field(default=2, ge=0)
    """changes a picture"""
    magnitude: float = Field(default=9.0, ge=0.0, le=LARGEST)
    """their strength, of 30"""
    visible: float = Field(default=0.3, ge=0.0, le=1.0)
    """a box with less than this share of its area inside is dropped"""

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        images_B3HW, boxes = pictures(batch, ctx), boxes_of(batch)
        if images_B3HW is None or images_B3HW.shape[1] != 3 or self.num_ops == 0:
            return batch
        draws_BN2 = draws("rand_augment", batch, ctx, 2 * self.num_ops).view(-1, self.num_ops, 2)
        made_B3HW, moved = images_B3HW.clone(), None if boxes is None else list(boxes)
        for at in range(self.num_ops):
            kinds_B = (draws_BN2[:, at, 0] * len(CHANGES)).long()
            signs_B = torch.where(draws_BN2[:, at, 1] < 0.5, -1.0, 1.0)
            for kind in kinds_B.unique().tolist():
                rows = torch.nonzero(kinds_B == kind).flatten()
                self._change(CHANGES[kind], made_B3HW, rows, signs_B[rows], moved, ctx)
        return with_pictures(batch, made_B3HW, moved, self.visible)

    def _change(
        self, name: str, images: Tensor, rows: Tensor, signs: Tensor, boxes: list[Tensor] | None, ctx: StepContext
    ) -> None:
        """Changes the `rows` of the pictures, and of their boxes, in place."""
        strength, chosen = self.magnitude / LARGEST, images[rows]
        if name in GEOMETRY:
            maps = self._maps(name, signs * strength * GEOMETRY[name], chosen)
            images[rows] = augment.affine(chosen, maps.to(images.device), outside="mean")
            moved = augment.affine_boxes([boxes[at] for at in rows.tolist()], maps) if boxes is not None else []
            for at, entry in zip(rows.tolist(), moved, strict=False):
                boxes[at] = entry  # type: ignore[index]
        elif name in COLOUR:
            images[rows] = self._coloured(name, chosen, (1 + 0.9 * strength * signs).to(images), ctx)
        elif name != "identity":
            mean, std = (entry.view(1, 3, 1, 1) for entry in pixel_scale(ctx.model, images))
            whole = ((chosen * std + mean) * 255).round().clamp(0, 255).float()
            images[rows] = ((self._toned(name, whole, signs.to(whole)) / 255 - mean) / std).to(images.dtype)

    def _maps(self, name: str, amounts: Tensor, chosen: Tensor) -> Tensor:
        zero, one = torch.zeros_like(amounts), torch.ones_like(amounts)
        height, width = chosen.shape[2:]
        if name == "rotate":
            return augment.affine_maps(amounts, one, zero, torch.stack([zero, zero], 1), height=height, width=width)
        across = amounts * (height / width if name == "shear_x" else width / height)  # shears are of pixels, not shares
        parts: Mapping[str, Callable[[], list[Tensor]]] = {
            "shear_x": lambda: [one, across, zero, zero, one, zero],
            "shear_y": lambda: [one, zero, zero, across, one, zero],
            "translate_x": lambda: [one, zero, amounts, zero, one, zero],
            "translate_y": lambda: [one, zero, zero, zero, one, amounts],
        }
        return torch.stack(parts[name](), 1).view(-1, 2, 3)

    def _coloured(self, name: str, chosen: Tensor, factors: Tensor, ctx: StepContext) -> Tensor:
        mean_3, std_3 = pixel_scale(ctx.model, chosen)
        means_B3 = chosen.mean((2, 3)) * std_3 + mean_3
        one_B = torch.ones_like(factors)
        bright_B, contrast_B, colour_B = (
            factors if name == at else one_B for at in ("brightness", "contrast", "colour")
        )
        maps = augment.colour_maps(means_B3, bright_B, contrast_B, colour_B, torch.zeros_like(factors))
        return augment.colour(chosen, *maps, mean_3=mean_3, std_3=std_3)

    def _toned(self, name: str, whole: Tensor, signs: Tensor) -> Tensor:
        strength, one = self.magnitude / LARGEST, torch.ones_like(signs)
        if name == "sharpness":
            return tones.sharpness(whole, 1 + 0.9 * strength * signs)
        if name == "posterize":
            return tones.posterize(whole, one * round(8 - 4 * strength))
        if name == "solarize":
            return tones.solarize(whole, one * 255 * (1 - strength))
        return tones.autocontrast(whole) if name == "autocontrast" else tones.equalize(whole)
