"""Duplicates: texts and pictures that are equal or nearly so."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from danlu.core.extras import need

SHINGLE_WORDS = 3
PERMUTATIONS = 128
MOST_CANDIDATES = 200


class Near(NamedTuple):
    """Two by their places, the earlier first, and how alike they are: of texts the share of common shingles."""

    first: int
    second: int
    similarity: float


def content_key(content: str | bytes) -> bytes:
    """Equal for equal content; of texts, case and white space do not matter."""
    if isinstance(content, str):
        content = " ".join(content.lower().split()).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()


def shingles(text: str) -> frozenset[bytes]:
    """All runs of three words, without case; of a shorter text the whole."""
    words = text.lower().split()
    runs = range(max(1, len(words) - SHINGLE_WORDS + 1))
    return frozenset(" ".join(words[at : at + SHINGLE_WORDS]).encode("utf-8", "surrogatepass") for at in runs)


def near_duplicates(texts: Sequence[str], *, similarity: float = 0.8) -> list[Near]:
    """For each text the first earlier one whose shingles' Jaccard similarity is at least `similarity`, if any.

    Candidates come from MinHash signatures of 128 permutations in bands (Broder 1997), which may miss pairs near the
    limit; each is then compared exactly, so that none is told that is not. Texts equal but for case and white space
    are not told.

    Raises:
        RequestError: datasketch is not installed.
    """
    datasketch = need("datasketch", extra="inspect", what="the search for near-duplicates")
    index = datasketch.MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS)
    found: list[Near] = []
    parts = [shingles(text) for text in texts]
    seen: dict[frozenset[bytes], int] = {}
    for at, own in enumerate(parts):
        if own in seen:  # nothing new for those that follow
            if content_key(texts[at]) != content_key(texts[seen[own]]):
                found.append(Near(seen[own], at, 1.0))
            continue
        seen[own] = at
        signature = datasketch.MinHash(num_perm=PERMUTATIONS)
        signature.update_batch(own)
        for other in sorted(index.query(signature)):
            common = len(own & parts[other]) / len(own | parts[other])
            if common >= similarity:
                found.append(Near(other, at, common))
                break
        index.insert(at, signature, check_duplication=False)
    return found


def groups(keys: Sequence[bytes]) -> list[list[int]]:
    """The places of equal keys, where there are two or more, in order."""
    by_key: dict[bytes, list[int]] = defaultdict(list)
    for at, key in enumerate(keys):
        by_key[key].append(at)
    return [places for places in by_key.values() if len(places) > 1]


def near_pictures(pictures: np.ndarray) -> list[Near]:
    """For each picture of (N, H, W, C) uint8, all of one size, the first earlier one that looks the same, if any.

    Candidates share a quarter of a difference hash, 64 signs of "brighter to the right" (Krawetz 2013), and differ in
    at most three of them; they are told when their bytes differ by less than 2 % of the range on average.
    """
    grey_N89 = np.stack([_shrunk(picture.mean(-1), 8, 9) for picture in pictures])
    bits_N64 = (grey_N89[:, :, 1:] > grey_N89[:, :, :-1]).reshape(len(pictures), 64)
    quarters_N4 = np.packbits(bits_N64.reshape(-1, 4, 16), axis=-1).reshape(len(pictures), 4, 2)
    known: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    found = []
    for at in range(len(pictures)):
        keys = [(part, quarters_N4[at, part].tobytes()) for part in range(4)]
        for other in sorted({place for key in keys for place in known[key][:MOST_CANDIDATES]}):
            if np.count_nonzero(bits_N64[at] != bits_N64[other]) > 3:
                continue
            apart = float(np.abs(pictures[at].astype(np.int16) - pictures[other]).mean()) / 255
            if apart < 0.02:
                found.append(Near(other, at, 1 - apart))
                break
        for key in keys:
            known[key].append(at)
    return found


def _shrunk(grey_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) means of equal parts."""
    rows = np.array_split(grey_HW, height, axis=0)
    return np.array([[part.mean() for part in np.array_split(row, width, axis=1)] for row in rows])
