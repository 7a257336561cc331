"""Digits on canvases: the same for the same seed, tight, apart from one another; the test's digits are its own."""

import gzip

import numpy as np

from danlu.data.digits import GAP, LONGEST, SHORTEST, Digits, canvases, mnist_5k


def _digits(number: int = 20) -> Digits:
    draw = np.random.default_rng(0)
    pictures = np.zeros((number, 28, 28), dtype=np.uint8)
    for picture in pictures:
        height, width = draw.integers(4, 20, 2)
        picture[4 : 4 + height, 5 : 5 + width] = 255
    return Digits(pictures, np.arange(number) % 10)


def test_boxes_are_tight_and_apart() -> None:
    for made in canvases(_digits(), 60, seed=3):
        assert 1 <= len(made.boxes) == len(made.labels) <= 4
        covered = np.zeros_like(made.picture, dtype=bool)
        for x, y, width, height in made.boxes:
            assert SHORTEST <= max(width, height) <= LONGEST
            assert not covered[max(y - GAP, 0) : y + height + GAP, max(x - GAP, 0) : x + width + GAP].any()
            covered[y : y + height, x : x + width] = True
            ink = made.picture[y : y + height, x : x + width] > 0
            assert ink[[0, -1]].any(1).all()
            assert ink[:, [0, -1]].any(0).all()
        assert not made.picture[~covered].any()


def test_the_same_seed_gives_the_same() -> None:
    one, two, other = (list(canvases(_digits(), 5, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(one, two, strict=True))
    assert not all(np.array_equal(a.picture, b.picture) for a, b in zip(one, other, strict=True))


def test_the_file_is_read_and_its_parts_are_disjoint() -> None:
    rows = [[at % 256] * 784 + [at // 2] for at in range(20)]
    digits = mnist_5k(gzip.compress("".join(",".join(map(str, row)) + "\n" for row in rows).encode()))
    parts = [set(digits.part(part).pictures[:, 0, 0].tolist()) for part in ("train", "test")]
    assert (len(parts[0]), len(parts[1])) == (16, 4)
    assert not parts[0] & parts[1]
