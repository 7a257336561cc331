"""Duplicates: texts that are equal but for case and white space, and texts that share most of their words."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from danlu.core.extras import need

SHINGLE_WORDS = 3
PERMUTATIONS = 128


class Near(NamedTuple):
    """Two texts by their places, the earlier first, and the share of shingles that they have in common."""

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
