"""Integer hashes: random choices that are pure functions of their arguments, the same on every machine and version."""

import numpy as np

_GOLDEN, _FIRST, _SECOND, _ALL = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xFFFFFFFFFFFFFFFF


def mix(number: int) -> int:
    """A well-mixed 64-bit hash of an integer (SplitMix64; Steele, Lea and Flood 2014)."""
    z = (number * _GOLDEN + _GOLDEN) & _ALL
    z = ((z ^ (z >> 30)) * _FIRST) & _ALL
    z = ((z ^ (z >> 27)) * _SECOND) & _ALL
    return z ^ (z >> 31)


def mix_many(numbers: np.ndarray, salt: int = 0) -> np.ndarray:
    """`mix(salt + n)` for each n of a uint64 array."""
    z = (numbers.astype(np.uint64) + np.uint64(salt & _ALL)) * np.uint64(_GOLDEN) + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    return z ^ (z >> np.uint64(31))


def shuffled(numbers: np.ndarray, domain: int, salt: int) -> np.ndarray:
    """Where a random permutation of [0, domain) sends each of `numbers`, without making the whole permutation.

    A Feistel network over the next power of four, walked until it falls into the domain (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains", section 4). Takes O(len(numbers)) time and memory.
    """
    half_bits = max(1, ((domain - 1).bit_length() + 1) // 2)
    result = numbers.astype(np.uint64)
    walking = np.arange(len(result))
    while len(walking):
        result[walking] = _feistel(result[walking], half_bits, salt)
        walking = walking[result[walking] >= domain]
    return result.astype(np.int64)


def _feistel(numbers: np.ndarray, half_bits: int, salt: int) -> np.ndarray:
    low = np.uint64((1 << half_bits) - 1)
    left, right = numbers >> np.uint64(half_bits), numbers & low
    for turn in range(6):
        left, right = right, left ^ (mix_many(right, mix(salt + turn)) >> np.uint64(17) & low)
    return (left << np.uint64(half_bits)) | right
