import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.hashing import mix, mix_many, shuffled


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**40), max_size=20))
def test_many_is_one_by_one(salt, numbers):
    expected = [mix((salt + n) % 2**64) for n in numbers]
    assert mix_many(np.array(numbers, dtype=np.uint64), salt).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_a_permutation(domain, salt):
    assert sorted(shuffled(np.arange(domain), domain, salt).tolist()) == list(range(domain))


def test_a_part_is_the_part_of_the_whole():
    whole = shuffled(np.arange(1000), 1000, 7)
    assert shuffled(np.arange(300, 400), 1000, 7).tolist() == whole[300:400].tolist()
    assert shuffled(np.array([999]), 10**12, 7)[0] < 10**12


def test_it_looks_random():
    """Every place is equally likely for an item: chi-squared over 1,000 salts stays within its usual range."""
    domain, trials = 10, 1000
    counts = np.zeros((domain, domain))
    for salt in range(trials):
        counts[np.arange(domain), shuffled(np.arange(domain), domain, mix(salt))] += 1
    expected = trials / domain
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 81 + 5 * np.sqrt(2 * 81)  # 9 * 9 degrees of freedom


def test_neighbours_part():
    order = shuffled(np.arange(100_000), 100_000, 3)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(100_000), order)[0, 1]) < 0.02
