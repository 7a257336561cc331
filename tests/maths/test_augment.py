"""Pictures and boxes move together, to the pixel."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from danlu.maths import augment

H, W = 24, 32


def scene(left: int, top: int, right: int, bottom: int, height: int = H, width: int = W) -> torch.Tensor:
    """A white box on black, with edges on pixels."""
    image_3HW = torch.zeros(3, height, width)
    image_3HW[:, top:bottom, left:right] = 1.0
    return image_3HW


def as_box(left: float, top: float, right: float, bottom: float, height: int = H, width: int = W) -> torch.Tensor:
    sides = torch.tensor([[(left + right) / 2 / width, (top + bottom) / 2 / height]])
    return torch.cat([sides, torch.tensor([[(right - left) / width, (bottom - top) / height]])], 1)


def seen(image_3HW: torch.Tensor) -> tuple[int, int, int, int]:
    """The edges of what is brighter than a half."""
    rows, columns = torch.where(image_3HW[0] > 0.5)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def edges(box_14: torch.Tensor, height: int = H, width: int = W) -> tuple[float, ...]:
    x, y, w, h = box_14[0].tolist()
    return ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)


def test_flip_moves_the_box_with_its_pixels() -> None:
    images, boxes = torch.stack([scene(3, 4, 10, 9)] * 2), [as_box(3, 4, 10, 9)] * 2
    chosen = torch.tensor([True, False])
    flipped, moved = augment.flip(images, chosen), augment.flip_boxes(boxes, chosen)
    for image, box in zip(flipped, moved, strict=True):
        assert edges(box) == pytest.approx(seen(image), abs=1e-4)
    assert seen(flipped[0]) == (W - 10, 4, W - 3, 9)
    assert torch.equal(flipped[1], images[1])
    assert torch.equal(augment.flip(flipped, chosen), images)
    torch.testing.assert_close(augment.affine(images, augment.flip_maps(chosen)), flipped, atol=1e-5, rtol=0)


def test_a_crop_of_half_the_sides_doubles_pixels() -> None:
    images, boxes = scene(8, 6, 18, 14)[None], [as_box(8, 6, 18, 14)]
    maps = augment.crop_maps(torch.tensor([[4 / W, 2 / H, 0.5, 0.5]]))
    cropped, (moved,) = augment.affine(images, maps), augment.affine_boxes(boxes, maps)
    assert seen(cropped[0]) == (8, 8, 28, 24)
    assert edges(moved) == pytest.approx((8, 8, 28, 24), abs=1e-4)


def test_a_quarter_turn_is_exact() -> None:
    side = 24
    image, box = scene(3, 4, 10, 9, side, side), as_box(3, 4, 10, 9, side, side)
    quarter = torch.tensor([90.0])
    maps = augment.affine_maps(quarter, torch.ones(1), torch.zeros(1), torch.zeros(1, 2), height=side, width=side)
    turned, (moved,) = augment.affine(image[None], maps), augment.affine_boxes([box], maps)
    torch.testing.assert_close(turned[0], image.rot90(-1, (1, 2)), atol=1e-4, rtol=0)  # clockwise as seen
    assert edges(moved, side, side) == pytest.approx(seen(turned[0]), abs=1e-3)


def test_shift_and_scale_move_by_whole_pixels() -> None:
    images, boxes = scene(8, 6, 16, 12)[None], [as_box(8, 6, 16, 12)]
    shift = torch.tensor([[4 / W, -2 / H]])
    maps = augment.affine_maps(torch.zeros(1), torch.ones(1), torch.zeros(1), shift, height=H, width=W)
    assert seen(augment.affine(images, maps)[0]) == (12, 4, 20, 10)
    assert edges(augment.affine_boxes(boxes, maps)[0]) == pytest.approx((12, 4, 20, 10), abs=1e-4)
    maps = augment.affine_maps(torch.zeros(1), 2 * torch.ones(1), torch.zeros(1), torch.zeros(1, 2), height=H, width=W)
    assert seen(augment.affine(images, maps)[0]) == (0, 0, 16, 12)
    assert edges(augment.affine_boxes(boxes, maps)[0]) == pytest.approx((0, 0, 16, 12), abs=1e-4)


def test_any_map_agrees_with_pil_and_holds_its_box() -> None:
    draw = torch.Generator().manual_seed(0)
    image = scene(9, 7, 22, 16)
    for _ in range(8):
        degrees, shear = (torch.rand(2, generator=draw) * 40 - 20).split(1)
        scale, shift = torch.rand(1, generator=draw) * 0.4 + 0.8, torch.rand(1, 2, generator=draw) * 0.1
        maps = augment.affine_maps(degrees, scale, shear, shift, height=H, width=W)
        ours = augment.affine(image[None], maps)[0]
        # PIL: from pixel (x, y), counted from the corner, to the place it is taken from
        a, b, c, d, e, f = maps[0].flatten().tolist()
        pixels = (a, b * W / H, W * (c + 0.5 - a / 2 - b / 2), d * H / W, e, H * (f + 0.5 - d / 2 - e / 2))
        made = Image.fromarray((image[0] * 255).byte().numpy())
        made = made.transform((W, H), Image.Transform.AFFINE, pixels, Image.Resampling.BILINEAR)
        inner = np.s_[2:-2, 2:-2]
        assert np.abs(np.asarray(made)[inner] / 255 - ours[0].numpy()[inner]).max() < 0.02
        left, top, right, bottom = edges(augment.affine_boxes([as_box(9, 7, 22, 16)], maps)[0])
        found = seen(ours)
        assert found[0] >= left - 1
        assert found[1] >= top - 1
        assert found[2] <= right + 1
        assert found[3] <= bottom + 1


def test_several_maps_are_one() -> None:
    image = torch.rand(2, 3, H, W)
    turn = augment.affine_maps(*torch.full((3, 2), 1.1), torch.zeros(2, 2), height=H, width=W)
    crop = augment.crop_maps(torch.tensor([[0.1, 0.2, 0.6, 0.7]] * 2))
    boxes = [as_box(9, 7, 22, 16)] * 2
    apart = augment.affine_boxes(augment.affine_boxes(boxes, turn), crop)
    together = augment.affine_boxes(boxes, augment.composed(turn, crop))
    centres = [torch.stack([entry[0, :2] for entry in part]) for part in (apart, together)]
    torch.testing.assert_close(*centres)
    smooth = torch.nn.functional.avg_pool2d(image, 7, 1, 3)
    one = augment.affine(augment.affine(smooth, turn), crop)
    two = augment.affine(smooth, augment.composed(turn, crop))
    torch.testing.assert_close(one, two, atol=0.03, rtol=0)


def test_beyond_the_picture() -> None:
    away = augment.affine_maps(torch.zeros(1), torch.ones(1), torch.zeros(1), torch.ones(1, 2), height=H, width=W)
    image = torch.full((1, 3, H, W), 0.7)
    assert augment.affine(image, away).min() > 0.69
    assert augment.affine(image, away, outside="mean")[..., 1:-1, 1:-1].abs().max() == 0


def test_boxes_are_cut_and_dropped_at_the_edge() -> None:
    boxes = [torch.cat([as_box(-5, 0, 5, 10), as_box(-8, 0, 2, 10), as_box(40, 0, 50, 10), as_box(1, 2, 3, 4)])]
    cut, kept = augment.clip_boxes(boxes, visible=0.5)
    assert kept[0].tolist() == [True, False, False, True]
    assert edges(cut[0][:1]) == pytest.approx((0, 0, 5, 10), abs=1e-5)
    assert augment.clip_boxes(boxes, visible=0.0)[1][0].tolist() == [True, True, False, True]
    assert augment.clip_boxes([torch.zeros(0, 4)], visible=0.3)[0][0].shape == (0, 4)


def test_mosaic_is_four_pictures_to_the_pixel() -> None:
    places = [(20, 15, 28, 22), (2, 14, 9, 20), (18, 1, 27, 8), (3, 2, 11, 9)]
    images = torch.stack([scene(*place) for place in places])
    boxes = [as_box(*place) for place in places]
    partners, corners = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[11, 17]])
    made = augment.mosaic(images, partners, corners)[0]
    moved, origins = augment.mosaic_boxes(boxes, partners, corners, height=H, width=W)
    cut, kept = augment.clip_boxes(moved, visible=0.0)
    assert kept[0].all()
    assert origins[0].tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
    drawn = torch.zeros(H, W)
    for box in cut[0]:
        left, top, right, bottom = (round(side) for side in edges(box[None]))
        drawn[top:bottom, left:right] = 1.0
    assert torch.equal(drawn, made[0])
    assert torch.equal(augment.mosaic(images, partners, torch.tensor([[H, W]]))[0], images[0])


@pytest.mark.parametrize("which", ["brightness", "contrast", "saturation"])
def test_colours_agree_with_pil(which: str) -> None:
    image = torch.rand(1, 3, H, W, generator=torch.Generator().manual_seed(3)) * 0.5 + 0.2
    bytes_HW3 = (image[0] * 255).round().byte().permute(1, 2, 0)
    image = bytes_HW3.permute(2, 0, 1)[None].float() / 255
    factors = {name: torch.tensor([1.3 if name == which else 1.0]) for name in ("brightness", "contrast", "saturation")}
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    maps = augment.colour_maps(image.mean((2, 3)), *factors.values(), torch.zeros(1))
    normalised = (image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    made = augment.colour(normalised, *maps, mean_3=mean, std_3=std) * std.view(1, 3, 1, 1) + mean.view(1, 3, 1, 1)
    changer = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}[which]
    by_pil = getattr(ImageEnhance, changer)(Image.fromarray(bytes_HW3.numpy())).enhance(1.3)
    assert np.abs(np.asarray(by_pil) / 255 - made[0].permute(1, 2, 0).numpy()).max() < 0.012


def test_hue_turns_colours_at_constant_brightness() -> None:
    image = torch.rand(1, 3, 4, 4) * 0.2 + 0.4
    ones, mean, std = torch.ones(1), torch.zeros(3), torch.ones(3)
    luma = torch.tensor(augment.LUMA).view(1, 3, 1, 1)

    def turned(share: float) -> torch.Tensor:
        maps = augment.colour_maps(image.mean((2, 3)), ones, ones, ones, torch.tensor([share]))
        return augment.colour(image, *maps, mean_3=mean, std_3=std)

    torch.testing.assert_close(turned(0.0), image)
    torch.testing.assert_close(turned(1.0), image)
    torch.testing.assert_close((turned(0.3) * luma).sum(1), (image * luma).sum(1), atol=1e-4, rtol=1e-4)
    assert (turned(0.3) - image).abs().max() > 0.02
