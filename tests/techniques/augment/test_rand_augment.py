import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from danlu.techniques.augment import rand_augment
from danlu.techniques.augment.rand_augment import CHANGES, RandAugment

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), 0.2


def test_keeps_boxes_on_their_pixels(check, monkeypatch) -> None:
    monkeypatch.setattr(rand_augment, "CHANGES", ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"))
    check(RandAugment(num_ops=1, magnitude=9))


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_does_something_and_stays_in_range(name, batch, ctx, monkeypatch) -> None:
    monkeypatch.setattr(rand_augment, "CHANGES", (name,))
    draw = torch.Generator().manual_seed(0)
    noise = (torch.randint(30, 200, batch.inputs["pixel_values"].shape, generator=draw) / 255 - MEAN) / STD
    given = batch.replace(inputs={"pixel_values": noise})
    made = RandAugment(num_ops=1, magnitude=20).on_batch(given, ctx(1), None).inputs["pixel_values"]
    moved = (made - noise).abs().amax((1, 2, 3))
    assert (moved < 1e-5).all() if name == "identity" else (moved > 0.05).all()
    shown = made * STD + MEAN
    assert -1e-4 < shown.min() < shown.max() < 1 + 1e-4


@pytest.mark.parametrize(("name", "enhance"), [("brightness", ImageEnhance.Brightness), ("colour", ImageEnhance.Color)])
def test_strengths_are_pils(name, enhance, batch, ctx, monkeypatch) -> None:
    monkeypatch.setattr(rand_augment, "CHANGES", (name,))
    draw = np.random.default_rng(0)
    bytes_BHWC = draw.integers(0, 256, (12, 24, 32, 3), dtype=np.uint8)
    pixels = (torch.from_numpy(bytes_BHWC).permute(0, 3, 1, 2) / 255 - MEAN) / STD
    given = batch.replace(inputs={"pixel_values": pixels})
    made = RandAugment(num_ops=1, magnitude=15).on_batch(given, ctx(1), None).inputs["pixel_values"] * STD + MEAN
    for row, picture in zip(made, bytes_BHWC, strict=True):
        ways = [np.asarray(enhance(Image.fromarray(picture)).enhance(1 + sign * 0.45)) for sign in (-1, 1)]
        apart = [np.abs(row.permute(1, 2, 0).numpy() * 255 - way).max() for way in ways]
        assert min(apart) < 2
