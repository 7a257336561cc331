import dataclasses

import pytest
import torch

from danlu.techniques.regularise.token_dropout import TokenDropout


@pytest.mark.parametrize("replacement", ["random", 9])
def test_replaces_a_share_and_spares_special_tokens(make_model, make_ctx, batch, replacement):
    model, technique = make_model(), TokenDropout(p=0.3, replacement=replacement)
    tokens_BT = torch.randint(3, 64, (4, 4000), generator=torch.Generator().manual_seed(0))
    tokens_BT[:, ::4] = torch.tensor([0, 1, 2]).repeat(334)[:1000]
    batch = dataclasses.replace(batch, inputs={"input_ids": tokens_BT})
    noised_BT = technique.on_batch(batch, make_ctx(model, technique), technique.start(model)).inputs["input_ids"]
    changed_BT = noised_BT != tokens_BT
    assert not changed_BT[tokens_BT < 3].any()
    assert not torch.isin(noised_BT[changed_BT], torch.tensor([0, 1, 2])).any()
    # a drawn token is the same or a special one in 4 of 64 cases; 9 itself stays in 1 of 61
    expected = 0.3 * (60 / 64 if replacement == "random" else 60 / 61)
    assert changed_BT[tokens_BT >= 3].float().mean().item() == pytest.approx(expected, abs=0.015)
    if replacement == 9:
        assert (noised_BT[changed_BT] == 9).all()


def test_a_row_draws_the_same_in_any_company(make_model, make_ctx, batch):
    model, technique = make_model(), TokenDropout(p=0.5)
    ctx, state = make_ctx(model, technique, step=3), technique.start(model)
    whole = technique.on_batch(batch, ctx, state)
    parts = [technique.on_batch(part, ctx, state) for part in batch.split(1)]
    assert torch.equal(whole.inputs["input_ids"], torch.cat([part.inputs["input_ids"] for part in parts]))
    assert torch.equal(whole.labels["tokens"], batch.labels["tokens"])
    longer_BT = torch.cat([batch.inputs["input_ids"], torch.zeros(4, 5, dtype=torch.int64)], 1)
    padded = technique.on_batch(batch.replace(inputs={"input_ids": longer_BT}), ctx, state)
    assert torch.equal(padded.inputs["input_ids"][:, :16], whole.inputs["input_ids"])
    ragged = batch.replace(inputs={"input_ids": tuple(batch.inputs["input_ids"])})
    rows = technique.on_batch(ragged, ctx, state).inputs["input_ids"]
    assert torch.equal(torch.stack(rows), whole.inputs["input_ids"])


def test_off_is_the_same_batch(make_model, make_ctx, batch):
    model, technique = make_model(), TokenDropout(p=0.0)
    assert technique.on_batch(batch, make_ctx(model, technique), technique.start(model)) is batch
