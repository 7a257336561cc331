import math

import numpy as np
import pytest
import torch

from danlu.core.batch import Batch, RowLosses
from danlu.core.errors import RequestError
from danlu.techniques.sample.doremi import Doremi

SOURCES = [0] * 60 + [1] * 30 + [2] * 10


def batch_of(ids: list[int], targets: list[int]) -> Batch:
    targets_B = torch.tensor(targets)
    return Batch(inputs={}, labels={}, example_ids_B=torch.tensor(ids), targets_B=targets_B, tokens_B=targets_B)


def after(technique: Doremi, state, make_ctx, ids: list[int], losses: list[float], targets: list[int]) -> None:
    rows = RowLosses(example_ids_B=torch.tensor(ids), losses_B=torch.tensor(losses), targets_B=torch.tensor(targets))
    technique.after_step(make_ctx(torch.nn.Module(), row_losses=lambda: rows), state)


def test_a_step_of_the_algorithm_by_hand(make_setting, make_model, make_ctx) -> None:
    """Excess: (9 + 4 − 6 − 3) / (3 + 1) = 1 for source 0; below zero for source 1; source 2 has no row, and keeps 0."""
    technique, model = Doremi(step=0.5, smoothing=0.1, reference="start"), make_model()
    state = technique.start_in(make_setting(SOURCES), model)
    told = {0: 6.0, 1: 3.0, 70: 5.0}
    batch = batch_of([0, 1, 70], [3, 1, 2])
    ctx = make_ctx(model, losses=lambda batch, call: torch.tensor([told[int(at)] for at in batch.example_ids_B]))
    assert technique.on_batch(batch, ctx, state) is batch
    after(technique, state, make_ctx, [0, 1, 70], [9.0, 4.0, 2.0], [3, 1, 2])
    raised = np.array([math.exp(0.5), 1.0, 1.0])
    expected = 0.9 * raised / raised.sum() + 0.1 / 3
    assert state.shares_G.tolist() == pytest.approx(expected)
    assert state.excess_G.tolist() == pytest.approx([1, 0, 0])
    again = expected * np.exp([0.5, 0, 0])
    after(technique, state, make_ctx, [70], [2.0], [2])
    second = 0.9 * again / again.sum() + 0.1 / 3
    assert state.shares_G.tolist() == pytest.approx(second)
    readings = technique.readings(state)
    assert readings["doremi/share_0"] == pytest.approx(second[0])
    assert readings["doremi/mean_2"] == pytest.approx((expected[2] + second[2]) / 2)


def test_sources_are_drawn_by_their_shares(make_setting, make_ctx, epoch) -> None:
    technique, model = Doremi(step=1.0, smoothing=0.0), torch.nn.Module()
    state = technique.start_in(make_setting(SOURCES), model)
    first = technique.on_draw(make_ctx(model), state)
    assert np.bincount(SOURCES, weights=epoch(first)) == pytest.approx([100 / 3] * 3, abs=1)
    assert technique.on_draw(make_ctx(model), state) is first
    after(technique, state, make_ctx, [0, 60, 90], [0.0, 0.0, math.log(2)], [1, 1, 1])
    weights = technique.on_draw(make_ctx(model), state)
    assert np.bincount(SOURCES, weights=epoch(weights)) == pytest.approx([25, 25, 50], abs=1)
    fresh = technique.start_in(make_setting(SOURCES), model)
    fresh.load_state_dict(state.state_dict())
    assert torch.equal(technique.on_draw(make_ctx(model), fresh), weights)


def test_one_source_is_refused(make_setting) -> None:
    with pytest.raises(RequestError, match="only one source"):
        Doremi().start_in(make_setting([0, 0, 0]), torch.nn.Module())
