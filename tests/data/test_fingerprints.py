import hashlib
import os

import pytest

from danlu.core.errors import DataError
from danlu.data import fingerprints
from danlu.data.fingerprints import content_digests, digest_of

LONG_AGO_NS = 10**18


def test_digests_differ_where_the_parts_do():
    assert digest_of("a", "b") == digest_of("a", "b") != digest_of("ab")


def test_content_counts(write, cache):
    paths = [write("a.txt", "one"), write("b.txt", "one"), write("c.txt", "two")]
    first, second, third = content_digests(paths, cache)
    assert first == second != third


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(write, cache):
    paths = [write("a.txt", "one"), write("b.txt", "two")]
    for path in paths:
        os.utime(path, ns=(1, LONG_AGO_NS))
    before = content_digests(paths, cache)
    paths[0].write_text("eno")
    paths[1].write_text("three")
    os.utime(paths[0], ns=(1, LONG_AGO_NS))  # same size, same time: it counts as unchanged, so nobody looks inside
    for forget in (dict, fingerprints._MET.clear):  # within the process, and as another one would find it
        forget()
        after = content_digests(paths, cache)
        assert after[0] == before[0]
        assert after[1] == digest_in_full(b"three")


def digest_in_full(content):
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@pytest.mark.parametrize("damage", ["", "[1, 2]", "{oops", '{"x": 5}'])
def test_a_damaged_memory_is_only_a_detour(write, cache, damage):
    path = write("a.txt", "one")
    os.utime(path, ns=(1, LONG_AGO_NS))
    before = content_digests([path], cache)
    (memory,) = (cache / "fingerprints").iterdir()
    memory.write_text(damage)
    fingerprints._MET.clear()
    assert content_digests([path], cache) == before


def test_a_file_that_went_away(tmp_path, cache):
    with pytest.raises(DataError, match="cannot be read"):
        content_digests([tmp_path / "gone"], cache)
