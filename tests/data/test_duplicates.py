import random

import pytest

from danlu.data.duplicates import content_key, groups, near_duplicates, shingles


def test_near_duplicates_are_those_of_all_pairs() -> None:
    pytest.importorskip("datasketch")
    draw = random.Random(0)
    texts = [" ".join(f"w{draw.randrange(300)}" for _ in range(60)) for _ in range(60)]
    for at in range(20):  # from one word changed to most of them
        words = texts[at].split()
        for place in draw.sample(range(60), 1 + at):
            words[place] = f"x{place}"
        texts.append(" ".join(words))
    found = {(pair.first, pair.second) for pair in near_duplicates(texts, similarity=0.8)}
    parts = [shingles(text) for text in texts]
    every = [(one, two) for two in range(len(texts)) for one in range(two)]
    common = {(one, two): len(parts[one] & parts[two]) / len(parts[one] | parts[two]) for one, two in every}
    sure = {pair for pair, share in common.items() if share >= 0.9}
    assert sure
    assert sure <= found <= {pair for pair, share in common.items() if share >= 0.8}


def test_equal_but_for_case_and_space_is_equal() -> None:
    keys = [content_key(text) for text in ("A  b", "a b\n", "a c", "a  B")]
    assert groups(keys) == [[0, 1, 3]]
    assert near_duplicates(["A  b", "a b"]) == []
    assert content_key(b"a b") != content_key(b"A b")
