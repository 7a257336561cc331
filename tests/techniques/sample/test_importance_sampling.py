import dataclasses

import pytest
import torch

from danlu.core.batch import Batch, RowLosses
from danlu.techniques.sample.importance_sampling import ImportanceSampling

LOSSES = torch.tensor([4.0, 0.5, 30.0, 9.0, 1.0, 2.0, 0.1, 7.0])
TARGETS = torch.tensor([4, 1, 10, 3, 2, 2, 1, 5])


def rows_of(ids: list[int]) -> RowLosses:
    return RowLosses(example_ids_B=torch.tensor(ids), losses_B=LOSSES[ids], targets_B=TARGETS[ids])


def batch_of(ids: list[int]) -> Batch:
    return Batch(inputs={}, labels={}, example_ids_B=torch.tensor(ids), targets_B=TARGETS[ids], tokens_B=TARGETS[ids])


@pytest.fixture
def seen(make_setting, make_ctx):
    """(technique, context, state) after every example but the last was trained on."""
    technique, model = ImportanceSampling(uniform=0.2, every=2), torch.nn.Module()
    state = technique.start_in(make_setting([0] * 8), model)
    for step, ids in ((1, [0, 1, 2]), (2, [3, 4, 5, 6])):
        assert technique.on_draw(make_ctx(model), state) is None
        assert technique.on_batch(batch_of(ids), make_ctx(model), state).weights_B is None
        technique.after_step(make_ctx(model, step=step, row_losses=lambda ids=ids: rows_of(ids)), state)
    return technique, make_ctx(model, step=2), state


def test_draws_are_in_proportion_to_the_loss_last_seen(seen) -> None:
    technique, ctx, state = seen
    known = torch.cat([LOSSES[:7], LOSSES[:7].mean()[None]]).double()
    expected = 0.8 * known / known.sum() + 0.2 / 8
    torch.testing.assert_close(technique.on_draw(ctx, state) / 8, expected)


def test_the_weighted_gradient_is_unbiased(seen) -> None:
    """Σ p w l over Σ p t is Σ l over Σ t, for any losses of now: exactly, once all numbers of targets are known."""
    technique, ctx, state = seen
    ids = list(range(8))
    technique.after_step(dataclasses.replace(ctx, row_losses=lambda: rows_of(ids)), state)
    p = technique.on_draw(ctx, state) / 8
    batch = technique.on_batch(batch_of(ids), ctx, state)
    assert batch.targets_B.tolist() == TARGETS.tolist()
    now = torch.rand(8).double()
    expected = (p * batch.weights_B * now).sum() / (p * TARGETS).sum()
    assert float(expected) == pytest.approx(float(now.sum() / TARGETS.sum()), rel=1e-6)


def test_a_long_draw_has_the_mean_of_the_data(seen, epoch) -> None:
    technique, ctx, state = seen
    counts = sum(epoch(technique.on_draw(ctx, state), seed) for seed in range(400)) / 400
    weights = technique.on_batch(batch_of(list(range(8))), ctx, state).weights_B / state.scale
    assert float((torch.from_numpy(counts) * weights * LOSSES).sum()) == pytest.approx(float(LOSSES.sum()), rel=0.03)


def test_weights_that_are_there_stay(seen) -> None:
    technique, ctx, state = seen
    plain, half = (
        technique.on_batch(batch_of([2, 5]).replace(weights_B=weights), ctx, state).weights_B
        for weights in (None, torch.tensor([0.5, 0.0]))
    )
    assert half.tolist() == [plain[0] / 2, 0.0]
