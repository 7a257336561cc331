"""Augmentation: pictures a second of danlu's batched operations against PIL, picture by picture.

    python benchmarks/augment.py [--side 96] [--rows 64] [--turns 7]

Both sides mirror, crop and enlarge, turn (an affine map, bilinear), change brightness, contrast, saturation and hue,
and end with normalised fp32 tensors, from decoded pictures in memory. PIL does as a data loader does: one picture after
the other, each operation in turn. danlu draws a batch: `apart` is what a recipe's techniques do, one after the other;
`composed` joins the three moves of pixels into one (`maths.augment.composed`). The sides take turns; pictures a second
and their ratio are of each side's best turn (others on the machine only add time), in brackets stands the median of the
ratios within a turn. On a GPU, where there is one, once more.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from operator import truediv

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from danlu.data.images import make_processor, pixel_values
from danlu.maths import augment


class Draws:
    """What happens to each of the pictures, the same on every side."""

    def __init__(self, rows: int, side: int) -> None:
        draw = torch.Generator().manual_seed(0)
        even = functools.partial(torch.rand, rows, generator=draw)
        self.flips = even() < 0.5
        sides = torch.stack([0.6 + 0.4 * even(), 0.6 + 0.4 * even()], 1)
        self.windows = torch.cat([(1 - sides) * torch.stack([even(), even()], 1), sides], 1)
        self.affine = augment.affine_maps(
            30 * even() - 15,
            0.8 + 0.4 * even(),
            torch.zeros(rows),
            torch.stack([0.2 * even() - 0.1, 0.2 * even() - 0.1], 1),
            height=side,
            width=side,
        )
        self.factors = [0.7 + 0.6 * even() for _ in range(3)]
        self.hues = 0.2 * even() - 0.1


def with_pil(pictures: list[Image.Image], draws: Draws, mean: np.ndarray, std: np.ndarray) -> Tensor:
    """Picture by picture, as a data loader's workers do it."""
    made = []
    for at, picture in enumerate(pictures):
        side = picture.width
        if draws.flips[at]:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left, top, width, height = (side * share for share in draws.windows[at].tolist())
        box = (left, top, left + width, top + height)
        picture = picture.resize((side, side), Image.Resampling.BILINEAR, box=box)
        a, b, c, d, e, f = draws.affine[at].flatten().tolist()
        numbers = (a, b, side * (c + 0.5 - (a + b) / 2), d, e, side * (f + 0.5 - (d + e) / 2))
        picture = picture.transform((side, side), Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR)
        for change, factors in zip(("Brightness", "Contrast", "Color"), draws.factors, strict=True):
            picture = getattr(ImageEnhance, change)(picture).enhance(float(factors[at]))
        hue, saturation, value = picture.convert("HSV").split()
        turned = (np.asarray(hue).astype(np.int16) + int(255 * draws.hues[at])).astype(np.uint8)
        picture = Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
        pixels = np.asarray(picture, dtype=np.float32) * np.float32(1 / 255)
        made.append(((pixels - mean) / std).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(made))


def batched(pixels: Tensor, draws: Draws, mean: Tensor, std: Tensor, *, composed: bool) -> Tensor:
    """The same on a normalised batch."""
    crops, turns = augment.crop_maps(draws.windows), draws.affine
    if composed:
        maps = augment.composed(augment.flip_maps(draws.flips), crops, turns)
        pixels = augment.affine(pixels, maps.to(pixels.device))
    else:
        pixels = augment.flip(pixels, draws.flips.to(pixels.device))
        pixels = augment.affine(augment.affine(pixels, crops.to(pixels.device)), turns.to(pixels.device))
    means = pixels.mean((2, 3)) * std + mean
    factors = [entry.to(pixels.device) for entry in (*draws.factors, draws.hues)]
    return augment.colour(pixels, *augment.colour_maps(means, *factors), mean_3=mean, std_3=std)


def sides(rows: int, side: int) -> dict[str, Callable[[], Tensor]]:
    """What is measured, by name."""
    arrays = list(np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), dtype=np.uint8))
    pictures, draws = [Image.fromarray(array) for array in arrays], Draws(rows, side)
    processor = make_processor(None, size=(side, side))
    mean, std = (torch.tensor(list(part)) for part in (processor.image_mean, processor.image_std))
    found = {"PIL": lambda: with_pil(pictures, draws, mean.numpy(), std.numpy())}
    for name, composed in (("danlu, apart", False), ("danlu, composed", True)):
        found[name] = lambda composed=composed: batched(
            pixel_values(arrays, processor), draws, mean, std, composed=composed
        )
    if torch.cuda.is_available():
        device = torch.device("cuda")
        mean_there, std_there = mean.to(device), std.to(device)

        def there() -> Tensor:
            pixels = pixel_values(arrays, processor).to(device)
            made = batched(pixels, draws, mean_there, std_there, composed=True)
            torch.cuda.synchronize()
            return made

        found["danlu, composed, GPU"] = there
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=96, help="pixels")
    parser.add_argument("--rows", type=int, default=64, help="pictures of a batch")
    parser.add_argument("--turns", type=int, default=7)
    asked = parser.parse_args()
    measured = sides(asked.rows, asked.side)
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for turn in range(asked.turns + 1):
        for name, run in measured.items():
            start = time.perf_counter()
            run()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    print(f"{asked.rows} pictures of {asked.side} x {asked.side}, {torch.get_num_threads()} threads for torch")
    for name, taken in seconds.items():
        ratio, median = min(seconds["PIL"]) / min(taken), statistics.median(map(truediv, seconds["PIL"], taken))
        print(f"{name:22} {asked.rows / min(taken):10,.0f} pictures/s   {ratio:5.1f} x PIL ({median:.1f})")


if __name__ == "__main__":
    main()
