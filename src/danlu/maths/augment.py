"""Changes to pictures and the boxes on them, for a whole batch at once.

Pictures are (B, C, H, W) of any floating type. Boxes come as B tensors (n, 4), centre x, centre y, width and height as
shares of the picture, as DETR has them. A place in a picture is measured from its upper left corner, pixel i reaching
from i to i + 1, so that a box with edges on pixels keeps them there. Nothing here draws a random number: what happens
to a row is told by tensors with one entry a row.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Boxes = Sequence[Tensor]
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: what red, green and blue add to brightness"""


def flip(images_BCHW: Tensor, chosen_B: Tensor) -> Tensor:
    """The chosen rows mirrored left to right."""
    flipped_BCHW = images_BCHW.clone()
    flipped_BCHW[chosen_B] = images_BCHW[chosen_B].flip(3)
    return flipped_BCHW


def flip_boxes(boxes: Boxes, chosen_B: Tensor) -> list[Tensor]:
    """The boxes of the chosen rows mirrored: x → 1 - x."""
    mirrored = [torch.cat([1 - entry[:, :1], entry[:, 1:]], 1) for entry in boxes]
    return [two if chosen else one for one, two, chosen in zip(boxes, mirrored, chosen_B.tolist(), strict=True)]


def crop_maps(windows_B4: Tensor) -> Tensor:
    """(B, 2, 3) maps for `affine` that enlarge a window (left, top, width, height as shares) to the whole picture."""
    left_B, top_B, width_B, height_B = windows_B4.unbind(1)
    zero_B = torch.zeros_like(left_B)
    rows = [
        torch.stack([width_B, zero_B, left_B + (width_B - 1) / 2], 1),
        torch.stack([zero_B, height_B, top_B + (height_B - 1) / 2], 1),
    ]
    return torch.stack(rows, 1)


def affine_maps(
    degrees_B: Tensor, scale_B: Tensor, shear_B: Tensor, shift_B2: Tensor, *, height: int, width: int
) -> Tensor:
    """(B, 2, 3) maps for `affine`: about the centre a shear, a turn (clockwise as seen) and a scale, then a shift.

    Angles and shears are in degrees; shifts are shares of the width and height.
    """
    turn_B, slant_B = torch.deg2rad(degrees_B), torch.tan(torch.deg2rad(shear_B))
    cos_B, sin_B = turn_B.cos() * scale_B, turn_B.sin() * scale_B
    # forward, in pixels about the centre: [[cos, -sin], [sin, cos]] · [[1, slant], [0, 1]], whose inverse is taken
    forward_B22 = torch.stack([cos_B, cos_B * slant_B - sin_B, sin_B, sin_B * slant_B + cos_B], 1).view(-1, 2, 2)
    back_B22 = torch.linalg.inv(forward_B22.double()).to(scale_B.dtype)
    sides_2 = scale_B.new_tensor([width, height])
    back_B22 = back_B22 * sides_2[None, None, :] / sides_2[None, :, None]  # in shares instead of pixels
    return torch.cat([back_B22, -back_B22 @ shift_B2[:, :, None]], 2)


def affine(images_BCHW: Tensor, maps_B23: Tensor, *, outside: Literal["edge", "mean"] = "edge") -> Tensor:
    """Pictures drawn anew: what stands at p is taken, bilinearly, from A p + b.

    Places are shares of the picture measured from its centre. Beyond the picture its edge goes on, or stands zero: of
    normalised pictures the mean colour of the data.
    """
    height, width = images_BCHW.shape[2:]
    a, b, c, d, e, f = maps_B23.to(images_BCHW.dtype).view(-1, 6, 1, 1).unbind(1)
    x_1W, y_H1 = ((torch.arange(n, dtype=a.dtype, device=a.device) + 0.5) / n - 0.5 for n in (width, height))
    y_H1 = y_H1[:, None]
    grid_BHW2 = images_BCHW.new_empty(len(images_BCHW), height, width, 2)  # counted in half pictures from the centre
    torch.add(2 * a * x_1W, 2 * (b * y_H1 + c), out=grid_BHW2[..., 0])
    torch.add(2 * d * x_1W, 2 * (e * y_H1 + f), out=grid_BHW2[..., 1])
    padding = "border" if outside == "edge" else "zeros"
    return functional.grid_sample(images_BCHW, grid_BHW2, padding_mode=padding, align_corners=False)


def composed(*maps: Tensor) -> Tensor:
    """One map in the place of several: the pictures are gone through once. The first is applied first."""
    whole_B33 = _squared(maps[0])
    for entry in maps[1:]:
        whole_B33 = whole_B33 @ _squared(entry)
    return whole_B33[:, :2]


def _squared(map_B23: Tensor) -> Tensor:
    last_B13 = map_B23.new_tensor([0.0, 0.0, 1.0]).expand(len(map_B23), 1, 3)
    return torch.cat([map_B23, last_B13], 1)


def flip_maps(chosen_B: Tensor) -> Tensor:
    """(B, 2, 3) maps for `affine` that mirror the chosen rows left to right."""
    maps_B23 = torch.eye(2, 3).repeat(len(chosen_B), 1, 1)
    maps_B23[:, 0, 0] = 1 - 2 * chosen_B.float()
    return maps_B23


def affine_boxes(boxes: Boxes, maps_B23: Tensor) -> list[Tensor]:
    """For each box the smallest upright one round where its corners go, not yet cut off at the picture's edge."""
    made = []
    for entry, map_23 in zip(boxes, maps_B23.double(), strict=True):
        forward_22 = torch.linalg.inv(map_23[:, :2])
        centre_n2, half_n2 = entry[:, :2].double() - 0.5, entry[:, 2:].double() / 2
        centre_n2 = (centre_n2 - map_23[:, 2]) @ forward_22.T + 0.5
        half_n2 = half_n2 @ forward_22.abs().T
        made.append(torch.cat([centre_n2, 2 * half_n2], 1).to(entry.dtype))
    return made


def clip_boxes(boxes: Boxes, *, visible: float) -> tuple[list[Tensor], list[Tensor]]:
    """The boxes cut off at the picture's edge, and of each row which of them (bool) stay.

    A box stays when at least the share `visible` of its area is inside, and more than nothing.
    """
    cut, kept = [], []
    for entry in boxes:
        low_n2, high_n2 = entry[:, :2] - entry[:, 2:] / 2, entry[:, :2] + entry[:, 2:] / 2
        low_n2, high_n2 = low_n2.clamp(0, 1), high_n2.clamp(0, 1)
        sides_n2 = high_n2 - low_n2
        shares_n = sides_n2.prod(1) / entry[:, 2:].prod(1).clamp(min=torch.finfo(entry.dtype).tiny)
        stays_n = (shares_n >= visible - 1e-6) & (sides_n2 > 1e-6).all(1)
        kept.append(stays_n)
        cut.append(torch.cat([(low_n2 + high_n2) / 2, sides_n2], 1)[stays_n])
    return cut, kept


def mosaic(images_BCHW: Tensor, partners_B4: Tensor, corners_B2: Tensor) -> Tensor:
    """Four pictures that meet in one point, seen through a window of one picture's size (Bochkovskiy et al. 2020).

    `partners_B4` names the rows at the upper left, upper right, lower left and lower right; `corners_B2` (y, x) is
    where they meet in the window, in whole pixels. Nothing is scaled, so every pixel is one of a picture's own.
    """
    made_BCHW = torch.empty_like(images_BCHW)
    height, width = images_BCHW.shape[2:]
    for at, (rows, (y, x)) in enumerate(zip(partners_B4.tolist(), corners_B2.tolist(), strict=True)):
        for row, (part, rest) in zip(rows, _quarters(y, x, height, width), strict=True):
            made_BCHW[at][:, part[0], part[1]] = images_BCHW[row][:, rest[0], rest[1]]
    return made_BCHW


def _quarters(y: int, x: int, height: int, width: int) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """(where in the window, from where in the picture) of each quarter."""
    tall, wide = (slice(0, y), slice(height - y, height)), (slice(0, x), slice(width - x, width))
    low, right = (slice(y, height), slice(0, height - y)), (slice(x, width), slice(0, width - x))
    pairs = [(tall, wide), (tall, right), (low, wide), (low, right)]
    return [((rows[0], columns[0]), (rows[1], columns[1])) for rows, columns in pairs]


def mosaic_boxes(
    boxes: Boxes, partners_B4: Tensor, corners_B2: Tensor, *, height: int, width: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Of each row the boxes of its four pictures, moved but not yet cut off, and (m, 2) the row and place of each."""
    made, origins = [], []
    for rows, (y, x) in zip(partners_B4.tolist(), corners_B2.tolist(), strict=True):
        entries, places = [], []
        for at, row in enumerate(rows):
            shift = boxes[row].new_tensor([x / width - (at % 2 == 0), y / height - (at < 2), 0.0, 0.0])
            entries.append(boxes[row] + shift)
            places += [(row, place) for place in range(len(boxes[row]))]
        made.append(torch.cat(entries))
        origins.append(torch.tensor(places, dtype=torch.int64).view(-1, 2))
    return made, origins


def colour_maps(
    means_B3: Tensor, brightness_B: Tensor, contrast_B: Tensor, saturation_B: Tensor, hue_B: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, 3, 3) and (B, 3): brightness, contrast, saturation and hue as one map of a pixel's red, green and blue.

    Brightness multiplies, contrast blends with the picture's mean grey, saturation with each pixel's grey (a factor of
    1 leaves all as it is), as PIL's ImageEnhance; hue turns the colours by a share of a full turn, at constant
    brightness (in YIQ). `means_B3` are the pictures' mean colours.
    """
    grey_3 = means_B3.new_tensor(LUMA)
    eye_33 = torch.eye(3, dtype=means_B3.dtype, device=means_B3.device)
    one_B11 = torch.ones_like(brightness_B).view(-1, 1, 1)
    saturate_B33 = saturation_B.view(-1, 1, 1) * eye_33 + (one_B11 - saturation_B.view(-1, 1, 1)) * grey_3.expand(3, 3)
    colours_B33 = _hue_turns(hue_B) @ saturate_B33
    linear_B33 = colours_B33 * (contrast_B * brightness_B).view(-1, 1, 1)
    mean_grey_B = (means_B3 @ grey_3) * brightness_B
    shift_B3 = (colours_B33 @ ((1 - contrast_B) * mean_grey_B)[:, None, None].expand(-1, 3, 1)).squeeze(2)
    return linear_B33, shift_B3


def _hue_turns(hue_B: Tensor) -> Tensor:
    to_yiq_33 = hue_B.new_tensor([LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
    cos_B, sin_B = torch.cos(2 * math.pi * hue_B), torch.sin(2 * math.pi * hue_B)
    zero_B, one_B = torch.zeros_like(cos_B), torch.ones_like(cos_B)
    turn_B33 = torch.stack([one_B, zero_B, zero_B, zero_B, cos_B, -sin_B, zero_B, sin_B, cos_B], 1).view(-1, 3, 3)
    return torch.linalg.inv(to_yiq_33) @ turn_B33 @ to_yiq_33


def colour(images_B3HW: Tensor, linear_B33: Tensor, shift_B3: Tensor, *, mean_3: Tensor, std_3: Tensor) -> Tensor:
    """Pictures normalised by `mean_3` and `std_3`, each pixel mapped in [0, 1] and kept within it."""
    # [0, 1] and back are folded into the map, so that the pictures are gone through once
    inner_B33 = linear_B33 * std_3[None, None, :] / std_3[None, :, None]
    outer_B3 = (linear_B33 @ mean_3 + shift_B3 - mean_3) / std_3
    shape = images_B3HW.shape
    made_B3N = torch.baddbmm(outer_B3[:, :, None], inner_B33, images_B3HW.reshape(shape[0], 3, -1))
    low_3, high_3 = -mean_3 / std_3, (1 - mean_3) / std_3
    return torch.minimum(torch.maximum(made_B3N, low_3[:, None]), high_3[:, None]).view(shape)


def rectangles(centres_B2: Tensor, sides_B2: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) bool: the pixels inside a rectangle of each row, cut off at the edges of a picture of `size` (H, W).

    Centres and sides are (x, y) and (width, height) as shares of the picture; edges are rounded to whole pixels.
    """
    height, width = size
    lengths_2 = centres_B2.new_tensor([width, height])
    low_B2 = torch.floor((centres_B2 - sides_B2 / 2) * lengths_2 + 0.5)[:, :, None]
    high_B2 = torch.floor((centres_B2 + sides_B2 / 2) * lengths_2 + 0.5)[:, :, None]
    x_W, y_H = (torch.arange(count, device=centres_B2.device) for count in (width, height))
    in_x_BW = (x_W >= low_B2[:, 0]) & (x_W < high_B2[:, 0])
    in_y_BH = (y_H >= low_B2[:, 1]) & (y_H < high_B2[:, 1])
    return in_y_BH[:, :, None] & in_x_BW[:, None, :]
