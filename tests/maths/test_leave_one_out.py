import math

import pytest
import torch

from danlu.maths.leave_one_out import hit_rate, ndcg, pessimistic_ranks, reciprocal_rank


def test_ranks():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.9, 0.1, 0.5]])
    assert pessimistic_ranks(scores, torch.tensor([1, 2, 1])).tolist() == [1, 2, 3]


def test_ties_and_nan_are_never_a_hit():
    assert pessimistic_ranks(torch.zeros(2, 50), torch.tensor([0, 49])).tolist() == [50, 50]
    assert pessimistic_ranks(torch.full((1, 50), torch.nan), torch.tensor([3])).tolist() == [50]
    hidden = torch.tensor([[1.0, -torch.inf, 0.5]])
    assert pessimistic_ranks(hidden, torch.tensor([1])).tolist() == [3]


def test_measures_of_known_ranks():
    ranks = torch.tensor([1, 3, 11])
    assert hit_rate(ranks, 10) == pytest.approx(2 / 3)
    assert ndcg(ranks, 10) == pytest.approx((1 + 1 / math.log2(4)) / 3)
    assert reciprocal_rank(ranks, 10) == pytest.approx((1 + 1 / 3) / 3)
    assert (hit_rate(ranks, 1), ndcg(ranks, 1), reciprocal_rank(ranks, 1)) == pytest.approx((1 / 3,) * 3)
