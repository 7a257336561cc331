import math

import numpy as np
import pytest
import torch

from danlu.maths.sampling import competence, effective_number, importance, rank_among, reweighed


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.999, 1.0])
def test_effective_number_is_the_sum_of_powers(beta: float) -> None:
    counts = torch.tensor([1, 2, 7, 400])
    expected = [sum(beta**power for power in range(int(count))) for count in counts]
    torch.testing.assert_close(effective_number(counts, beta), torch.tensor(expected, dtype=torch.float64))


def test_importance_is_a_mixture_of_loss_and_uniform() -> None:
    losses = torch.tensor([1.0, 3.0, torch.nan, 0.0])
    found = importance(losses, 0.25)
    filled = torch.tensor([1.0, 3.0, 4 / 3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found / 4, 0.75 * filled / filled.sum() + 0.25 / 4)
    assert importance(torch.full((3,), torch.nan), 0.1).tolist() == [1, 1, 1]
    assert importance(torch.zeros(3), 0.1).tolist() == [1, 1, 1]


def test_ranks_are_the_empirical_distribution_function() -> None:
    draw = np.random.default_rng(0)
    seen, losses = draw.integers(0, 9, 50).astype(np.float32), draw.integers(-1, 10, 20).astype(np.float32)
    expected = [(seen <= loss).mean() for loss in losses]
    assert rank_among(torch.from_numpy(losses), torch.from_numpy(seen)).tolist() == pytest.approx(expected)


def test_competence_begins_at_its_start_and_ends_at_one() -> None:
    for power in (1.0, 2.0, 5.0):
        assert competence(0.0, 0.1, power) == pytest.approx(0.1)
        assert competence(1.0, 0.1, power) == competence(1.5, 0.1, power) == 1.0
    assert competence(0.5, 0.2, 1.0) == pytest.approx(0.6)
    assert competence(0.25, 0.01, 2.0) == pytest.approx(math.sqrt(0.25 * (1 - 1e-4) + 1e-4))


def test_shares_follow_the_excess_by_hand() -> None:
    """Two sources, half each; one behind by ln 3 at η = 1: 3 to 1, then a fifth of the even mixture."""
    found = reweighed(torch.tensor([0.5, 0.5]).double(), torch.tensor([math.log(3), 0.0]).double(), 1.0, 0.2)
    assert found.tolist() == pytest.approx([0.8 * 0.75 + 0.1, 0.8 * 0.25 + 0.1])
    kept = torch.tensor([0.2, 0.8]).double()
    torch.testing.assert_close(reweighed(kept, torch.zeros(2).double(), 5.0, 0.0), kept)
