"""A batch of pictures with boxes, and the context of a step."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from danlu.core.batch import Batch
from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials
from danlu.core.technique import StepContext, Technique

H, W, ROWS = 24, 32, 12


@pytest.fixture
def ctx() -> Callable[[int], StepContext]:
    model = torch.nn.Identity()
    model.config = SimpleNamespace(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.2, 0.2])

    def at(step: int = 0) -> StepContext:
        clock = Clock(budget=Budget(steps=9), step=step)
        return StepContext(clock=clock, dials=Dials(()), model=model, seed=1, device=torch.device("cpu"))

    return at


@pytest.fixture
def batch() -> Batch:
    """Twelve pictures, each with a bright box on a dark ground, in normalised values; the second has no box."""
    draw = torch.Generator().manual_seed(0)
    images, boxes = torch.full((ROWS, 3, H, W), -2.0), []
    for row in range(ROWS):
        left, top = (int(torch.randint(2, limit - 12, (), generator=draw)) for limit in (W, H))
        width, height = (int(torch.randint(6, 10, (), generator=draw)) for _ in range(2))
        images[row, :, top : top + height, left : left + width] = 2.0
        entry = torch.tensor([[(left + width / 2) / W, (top + height / 2) / H, width / W, height / H]])
        boxes.append(entry if row != 1 else entry[:0])
    images[1] = -2.0
    return Batch(
        inputs={"pixel_values": images},
        labels={
            "boxes": tuple(boxes),
            "classes": tuple(torch.full((len(entry),), at) for at, entry in enumerate(boxes)),
        },
        example_ids_B=torch.arange(ROWS) + 100,
        targets_B=torch.tensor([len(entry) for entry in boxes]),
        tokens_B=torch.full((ROWS,), 4),
    )


@pytest.fixture
def check(ctx: Callable[[int], StepContext], batch: Batch) -> Callable[..., Batch]:
    """What every augmentation promises; gives the changed batch."""

    def promises(technique: Technique, *, alone: bool = True) -> Batch:
        made = technique.on_batch(batch, ctx(3), None)
        assert torch.equal(made.inputs["pixel_values"], technique.on_batch(batch, ctx(3), None).inputs["pixel_values"])
        assert not torch.equal(made.inputs["pixel_values"], batch.inputs["pixel_values"])
        other = technique.on_batch(batch, ctx(4), None)
        assert not torch.equal(other.inputs["pixel_values"], made.inputs["pixel_values"])
        assert made.inputs["pixel_values"].shape == batch.inputs["pixel_values"].shape
        assert [len(entry) for entry in made.labels["boxes"]] == made.targets_B.tolist()
        assert [len(entry) for entry in made.labels["classes"]] == made.targets_B.tolist()
        if alone:  # a row draws the same in any company
            parts = [technique.on_batch(part, ctx(3), None) for part in batch.split(5)]
            pixels = torch.cat([part.inputs["pixel_values"] for part in parts])
            torch.testing.assert_close(pixels, made.inputs["pixel_values"], atol=1e-5, rtol=0)
        texts = batch.replace(inputs={"input_ids": torch.zeros(ROWS, 4, dtype=torch.int64)}, labels={})
        assert technique.on_batch(texts, ctx(3), None) is texts
        off = type(technique)(**type(technique).off) if type(technique).off else type(technique)(p=0.0)
        assert off.on_batch(batch, ctx(3), None) is batch
        for image, boxes in zip(made.inputs["pixel_values"], made.labels["boxes"], strict=True):
            _stands_on_its_pixels(image, boxes)
        return made

    return promises


def _stands_on_its_pixels(image_3HW: torch.Tensor, boxes_n4: torch.Tensor) -> None:
    """The bright pixels of the picture lie in its boxes, and every box holds some."""
    bright_HW = image_3HW.mean(0) > 0.5
    inside_HW = torch.zeros_like(bright_HW)
    height, width = bright_HW.shape
    for x, y, w, h in boxes_n4.tolist():
        rows = slice(max(round((y - h / 2) * height) - 1, 0), round((y + h / 2) * height) + 1)
        columns = slice(max(round((x - w / 2) * width) - 1, 0), round((x + w / 2) * width) + 1)
        inside_HW[rows, columns] = True
        assert bright_HW[rows, columns].any()
    assert not bool((bright_HW & ~inside_HW).any()) or not len(boxes_n4)
