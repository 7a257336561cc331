"""Boxes: overlaps against counting pixels, and which are kept against the plain loop."""

import pytest
import torch

from danlu.maths.boxes import areas_of, centres_of, corners_of, giou, iou, kept_by_nms

SIDE = 24


def boxes(number: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, SIDE - 8, (number, 2), generator=generator)
    return torch.cat([first, first + torch.randint(1, 9, (number, 2), generator=generator)], 1).float()


def pixels(box: torch.Tensor) -> torch.Tensor:
    grid = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    left, top, right, bottom = box.int().tolist()
    grid[top:bottom, left:right] = True
    return grid


def test_overlaps_equal_counted_pixels() -> None:
    one, two = boxes(40), boxes(40, seed=1)
    for a, b, found, general in zip(one, two, iou(one, two), giou(one, two), strict=True):
        both, either = pixels(a) & pixels(b), pixels(a) | pixels(b)
        expected = float(both.sum() / either.sum())
        hull = torch.cat([torch.minimum(a[:2], b[:2]), torch.maximum(a[2:], b[2:])])
        assert float(found) == pytest.approx(expected)
        assert float(general) == pytest.approx(expected - 1 + float(either.sum() / areas_of(hull)))
    assert torch.equal(iou(one, one), torch.ones(40))


def test_forms_lead_back() -> None:
    one = boxes(10)
    assert torch.allclose(corners_of(centres_of(one)), one)


def test_suppression_equals_the_plain_loop() -> None:
    many, classes = boxes(60), torch.arange(60) % 2
    kept: list[int] = []
    for at in range(60):
        if all(classes[at] != classes[other] or iou(many[at], many[other]) <= 0.3 for other in kept):
            kept.append(at)
    assert kept_by_nms(many, classes, 0.3).nonzero()[:, 0].tolist() == kept
    assert len(kept) < 60
