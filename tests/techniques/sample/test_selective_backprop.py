import pytest
import torch

from danlu.core.batch import Batch
from danlu.techniques.sample.selective_backprop import SelectiveBackprop


def batch_of(number: int) -> Batch:
    ones = torch.ones(number, dtype=torch.int64)
    ids = torch.arange(number)
    return Batch(inputs={"row": ids}, labels={}, example_ids_B=ids, targets_B=2 * ones, tokens_B=ones)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_a_row_is_kept_as_often_as_its_rank_says(beta: float, make_ctx) -> None:
    technique, model, number = SelectiveBackprop(beta=beta, history=40), torch.nn.Module(), 40
    losses, kept = torch.rand(number), torch.zeros(number)
    for step in range(600):
        ctx = make_ctx(model, step=step, steps=1000, losses=lambda batch: losses)
        kept[technique.on_batch(batch_of(number), ctx, technique.start(model)).example_ids_B] += 1 / 600
    rank = (losses[None] <= losses[:, None]).double().mean(1)
    assert float((kept - rank**beta).abs().max()) < 0.1
    assert float(kept.mean()) == pytest.approx(float((rank**beta).mean()), abs=0.01)


def test_losses_are_compared_with_those_before(make_ctx) -> None:
    technique, model = SelectiveBackprop(beta=50.0, history=20), torch.nn.Module()
    state = technique.start(model)
    technique.on_batch(batch_of(20), make_ctx(model, losses=lambda batch: torch.full((20,), 2.0)), state)
    batch = technique.on_batch(batch_of(3), make_ctx(model, losses=lambda batch: torch.tensor([0.1, 3.0, 0.2])), state)
    assert batch.example_ids_B.tolist() == batch.inputs["row"].tolist() == [1]
    assert batch.num_targets == 2
    assert len(state.losses_M) == 20
    assert state.losses_M[-3:].tolist() == pytest.approx([0.05, 1.5, 0.1])


def test_processes_choose_as_one(make_ctx) -> None:
    technique, model, losses = SelectiveBackprop(history=8), torch.nn.Module(), torch.rand(8) + 1
    whole = technique.on_batch(batch_of(8), make_ctx(model, losses=lambda batch: losses), technique.start(model))
    parts = []
    for own in (slice(0, 6), slice(6, 8)):
        ctx = make_ctx(model, losses=lambda batch, own=own: losses[own], gather=lambda _, own=own: (losses / 2, own))
        parts.append(technique.on_batch(batch_of(8).rows(own.start, own.stop), ctx, technique.start(model)))
    ids = [at for part in parts for at in part.example_ids_B[part.targets_B > 0].tolist()]
    assert ids == whole.example_ids_B.tolist()


def test_a_stand_in_is_neither_kept_nor_counted(make_ctx) -> None:
    technique, model = SelectiveBackprop(), torch.nn.Module()
    state, batch = technique.start(model), batch_of(2).muted()
    made = technique.on_batch(batch, make_ctx(model, losses=lambda batch: torch.zeros(1)), state)
    assert made.num_rows == 1
    assert made.num_targets == 0
    assert len(state.losses_M) == 0
