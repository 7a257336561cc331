"""Tones: each operation gives byte for byte what PIL gives."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from danlu.maths import tones


@pytest.fixture
def images() -> torch.Tensor:
    """Noise, a ramp, a dull picture, a plain one, and one of few colours."""
    draw = np.random.default_rng(0)
    ramp = np.broadcast_to(np.linspace(0, 255, 23).astype(int), (17, 23))
    made = [
        draw.integers(0, 256, (17, 23, 3)),
        np.stack([ramp, ramp[::-1, ::-1], 255 - ramp], -1),
        draw.integers(60, 130, (17, 23, 3)),
        np.full((17, 23, 3), 77),
        draw.choice([3, 90, 91, 200], (17, 23, 3)),
    ]
    return torch.from_numpy(np.stack(made).transpose(0, 3, 1, 2)).float()


def by_pil(images_BCHW: torch.Tensor, change) -> torch.Tensor:
    pictures = [Image.fromarray(row.permute(1, 2, 0).numpy().astype(np.uint8)) for row in images_BCHW]
    return torch.from_numpy(np.stack([np.asarray(change(one)) for one in pictures])).permute(0, 3, 1, 2).float()


def rows(images: torch.Tensor, value: float) -> torch.Tensor:
    return torch.full((len(images),), float(value))


@pytest.mark.parametrize("threshold", [0, 100, 255])
def test_solarize(images, threshold) -> None:
    made = tones.solarize(images, rows(images, threshold))
    assert torch.equal(made, by_pil(images, lambda one: ImageOps.solarize(one, threshold)))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_posterize(images, bits) -> None:
    assert torch.equal(
        tones.posterize(images, rows(images, bits)), by_pil(images, lambda one: ImageOps.posterize(one, bits))
    )


def test_autocontrast(images) -> None:
    assert (tones.autocontrast(images) - by_pil(images, ImageOps.autocontrast)).abs().max() <= 1


def test_equalize(images) -> None:
    assert torch.equal(tones.equalize(images), by_pil(images, ImageOps.equalize))


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.9])
def test_sharpness(images, factor) -> None:
    made = tones.sharpness(images, rows(images, factor))
    assert (made - by_pil(images, lambda one: ImageEnhance.Sharpness(one).enhance(factor))).abs().max() <= 1
