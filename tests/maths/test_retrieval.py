import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from danlu.maths.retrieval import contrastive_losses, pooled, ranking_scores, ranks_and_loss, without_muted


def test_pooling_leaves_padding_out() -> None:
    hidden, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    torch.testing.assert_close(pooled(hidden, mask, "mean")[1], hidden[1, :2].mean(0))
    torch.testing.assert_close(pooled(hidden, mask, "last")[1], hidden[1, 1])
    torch.testing.assert_close(pooled(hidden, mask, "cls"), hidden[:, 0])


def test_the_loss_is_the_cross_entropy_over_all_documents() -> None:
    queries, documents = torch.randn(4, 5), torch.randn(4, 2, 5)
    keys, document_keys = torch.arange(4), torch.arange(8).view(4, 2)
    unit = functional.normalize(documents, dim=-1)
    scores = 20 * functional.normalize(queries, dim=-1) @ torch.cat([unit[:, 0], unit[:, 1]]).T
    forth = functional.cross_entropy(scores, torch.arange(4), reduction="none")
    back = functional.cross_entropy(scores[:, :4].T, torch.arange(4), reduction="none")
    found = contrastive_losses(queries, documents, keys, document_keys, scale=20.0, both=False)
    torch.testing.assert_close(found, forth)
    found = contrastive_losses(queries, documents, keys, document_keys, scale=20.0, both=True)
    torch.testing.assert_close(found, (forth + back) / 2)


@pytest.mark.parametrize("both", [False, True])
def test_what_is_right_too_or_absent_is_no_negative(both: bool) -> None:
    queries, documents = torch.randn(3, 5), torch.randn(3, 2, 5)
    same = {"scale": 20.0, "both": both}
    alone = contrastive_losses(queries[:1], documents[:1, :1], torch.tensor([0]), torch.tensor([[7]]), **same)
    assert alone.tolist() == [0.0]
    absent = torch.tensor([[7, -1], [7, -1], [8, -1]])
    equal_documents = contrastive_losses(queries, documents, torch.arange(3), absent, **same)
    without_one = contrastive_losses(
        queries[[0, 2]], documents[[0, 2], :1], torch.arange(2), absent[[0, 2], :1], **same
    )
    torch.testing.assert_close(equal_documents[0], without_one[0])
    equal_queries = contrastive_losses(
        queries, documents, torch.tensor([0, 0, 1]), torch.tensor([[6, -1], [7, -1], [8, -1]]), **same
    )
    torch.testing.assert_close(equal_queries[0], without_one[0])
    muted = without_muted(absent, torch.tensor([1.0, 0.0, 1.0]))
    assert muted[1].tolist() == [-100, -100]
    assert torch.isfinite(contrastive_losses(queries, documents, torch.arange(3), muted, **same)).all()


def test_ranks_count_what_comes_before_and_ties_go_by_place() -> None:
    documents = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    pairs = torch.tensor([[0, 2], [1, 0], [1, 3]])
    ranks, loss = ranks_and_loss(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), documents, pairs, scale=2.0)
    assert ranks.tolist() == [1, 2, 1]
    half = math.sqrt(0.5)
    first = math.log(2 * math.exp(2) + 1 + math.exp(2 * half)) - 2
    second = math.log(2 + math.exp(2))  # without the other right one
    third = math.log(math.exp(2) + 1 + math.exp(2 * half)) - 2 * half
    assert loss == pytest.approx((first + second + third) / 3, rel=1e-5)


def test_scores_are_those_of_the_definitions() -> None:
    scores = ranking_scores([np.array([0]), np.array([1, 4]), np.array([60])])
    assert scores["recall@1"].tolist() == [1.0, 0.0, 0.0]
    assert scores["recall@10"].tolist() == [1.0, 1.0, 0.0]
    assert scores["recall@100"].tolist() == [1.0, 1.0, 1.0]
    assert scores["mrr@10"].tolist() == [1.0, 0.5, 0.0]
    expected = (1 / math.log2(3) + 1 / math.log2(6)) / (1 + 1 / math.log2(3))
    assert scores["ndcg@10"].tolist() == [1.0, pytest.approx(expected), 0.0]
