from pathlib import Path

import pytest
import torch

from danlu.core.batch import Batch
from danlu.core.technique import Setting
from danlu.techniques.sample.rho_loss import RhoLoss
from tests.conformance.tiny import farthest, finish, make_engine

LOSSES = torch.tensor([8.0, 3.0, 6.0, 1.0, 9.0])
REFERENCE = torch.tensor([7.5, 1.0, 1.0, 0.5, 8.9])
TARGETS = torch.tensor([1, 2, 4, 1, 1])


def batch_of(ids: list[int]) -> Batch:
    places = torch.tensor(ids)
    targets = TARGETS[ids]
    return Batch(inputs={}, labels={}, example_ids_B=places, targets_B=targets, tokens_B=targets)


def losses(batch: Batch, call: object = None) -> torch.Tensor:
    return (LOSSES if call is None else REFERENCE)[batch.example_ids_B]


@pytest.mark.parametrize(("keep", "reference", "kept"), [(0.4, True, [1, 2]), (0.4, False, [0, 4]), (0.1, True, [2])])
def test_rows_with_the_most_left_to_learn_are_kept(keep, reference, kept, make_model, make_ctx) -> None:
    """Excess by target, by hand: 0.5, 1, 1.25, 0.5, 0.1."""
    technique, model = RhoLoss(keep=keep, reference="start" if reference else None), make_model()
    state = technique.start_in(Setting(), model)
    made = technique.on_batch(batch_of([0, 1, 2, 3, 4]), make_ctx(model, losses=losses), state)
    assert made.example_ids_B.tolist() == kept
    assert made.num_targets == int(TARGETS[kept].sum())


def test_the_best_are_chosen_over_all_processes(make_model, make_ctx) -> None:
    technique, model = RhoLoss(keep=0.4, reference="start"), make_model()
    state, excess = technique.start_in(Setting(), model), (LOSSES - REFERENCE) / TARGETS
    kept = []
    for own in (slice(0, 3), slice(3, 5)):
        ctx = make_ctx(model, losses=losses, gather=lambda _, own=own: (excess, own))
        made = technique.on_batch(batch_of(list(range(5))[own]), ctx, state)
        kept += made.example_ids_B[made.targets_B > 0].tolist()
    assert kept == [1, 2]


def test_a_reference_changes_the_choice_and_half_of_the_rows_are_trained_on(tmp_path: Path) -> None:
    plain, start = (RhoLoss(keep=0.5, reference=name) for name in (None, "start"))
    first, second = (finish(make_engine(tmp_path / str(at), [part], steps=4)) for at, part in enumerate((plain, start)))
    assert first.engine.clock.examples == second.engine.clock.examples == 16
    assert farthest(first.weights, second.weights) > 0
