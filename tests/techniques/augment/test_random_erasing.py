import pytest
import torch

from danlu.core.batch import Batch
from danlu.techniques.augment.random_erasing import RandomErasing


def plain(batch: Batch) -> Batch:
    ones = torch.ones(400, 3, 40, 50)
    ids = torch.arange(400)
    return batch.replace(
        inputs={"pixel_values": ones}, labels={"classes": ids}, example_ids_B=ids, targets_B=ids * 0 + 1, tokens_B=ids
    )


def test_a_rectangle_of_the_asked_size_is_lost_from_some(batch, ctx) -> None:
    made = RandomErasing(p=0.5, least=0.1, most=0.3).on_batch(plain(batch), ctx(1), None).inputs["pixel_values"]
    lost = (made[:, 0] == 0).float()
    share = lost.mean((1, 2))
    chosen = share > 0
    assert 0.4 < chosen.float().mean() < 0.6
    assert 0.08 < share[chosen].min() < share[chosen].max() < 0.33
    for row in lost[chosen][:20]:
        ys, xs = torch.nonzero(row.amax(1)).flatten(), torch.nonzero(row.amax(0)).flatten()
        assert row.sum() == len(ys) * len(xs) == (ys[-1] - ys[0] + 1) * (xs[-1] - xs[0] + 1)


def test_noise_stands_in_its_place(batch, ctx) -> None:
    made = RandomErasing(p=1.0, fill="noise").on_batch(plain(batch), ctx(1), None).inputs["pixel_values"]
    filled = made[made != 1]
    assert filled.mean().abs() < 0.02
    assert filled.std() == pytest.approx(1, abs=0.02)


def test_a_row_draws_the_same_in_any_company(batch, ctx) -> None:
    technique = RandomErasing(p=0.9)
    whole = technique.on_batch(batch, ctx(2), None).inputs["pixel_values"]
    parts = torch.cat([technique.on_batch(part, ctx(2), None).inputs["pixel_values"] for part in batch.split(5)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, batch.inputs["pixel_values"])


def test_the_largest_is_not_below_the_least() -> None:
    with pytest.raises(ValueError, match="least"):
        RandomErasing(least=0.5, most=0.1)
