import numpy as np
import pytest
import torch

from danlu.core.batch import Batch
from danlu.techniques.sample.curriculum import Curriculum

LENGTHS = np.random.default_rng(0).permutation(np.arange(50) * 3 + 2).tolist()


@pytest.mark.parametrize(("power", "step", "share"), [(1.0, 0, 0.2), (1.0, 40, 0.6), (2.0, 40, 0.73), (1.0, 80, 1.0)])
def test_the_shortest_examples_come_first(power, step, share, make_setting, make_ctx, epoch) -> None:
    technique, model = Curriculum(begin=0.2, full=0.8, power=power), torch.nn.Module()
    state = technique.start_in(make_setting([0] * 50, LENGTHS), model)
    ctx = make_ctx(model, step=step, steps=100)
    assert technique.share(ctx) == pytest.approx(share, abs=0.01)
    weights = technique.on_draw(ctx, state)
    if share == 1.0:
        assert weights is None
        return
    assert weights is technique.on_draw(ctx, state)
    counts, lengths = epoch(weights), np.array(LENGTHS)
    number = int(technique.share(ctx) * 50 + 1e-9)
    assert set(lengths[counts > 0]) == set(np.sort(lengths)[:number])
    assert counts[counts > 0] == pytest.approx(50 / number, abs=1)


def test_the_set_follows_the_clock_after_a_restart(make_setting, make_ctx) -> None:
    technique, model = Curriculum(begin=0.2, full=0.8), torch.nn.Module()
    straight, fresh = (technique.start_in(make_setting([0] * 50, LENGTHS), model) for _ in range(2))
    for step in range(30):
        found = technique.on_draw(make_ctx(model, step=step, steps=100), straight)
    fresh.load_state_dict(straight.state_dict())
    assert torch.equal(found, technique.on_draw(make_ctx(model, step=29, steps=100), fresh))


def test_by_loss_the_hardest_rows_are_left_out_for_now(make_setting, make_ctx) -> None:
    technique, model = Curriculum(by="loss", begin=0.5, full=1.0, power=1.0), torch.nn.Module()
    state = technique.start_in(make_setting([0] * 4), model)
    ids, losses = torch.arange(4), torch.tensor([3.0, 1.0, 2.0, 4.0])
    batch = Batch(inputs={}, labels={}, example_ids_B=ids, targets_B=ids + 1, tokens_B=ids + 1)
    assert technique.on_draw(make_ctx(model), state) is None
    made = technique.on_batch(batch, make_ctx(model, losses=lambda batch: losses * batch.targets_B), state)
    assert made.example_ids_B.tolist() == [1, 2]
    late = technique.on_batch(batch, make_ctx(model, step=10), state)
    assert late is batch
