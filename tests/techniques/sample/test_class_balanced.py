import numpy as np
import pytest
import torch

from danlu.techniques.sample.class_balanced import ClassBalanced

LABELS = [0] * 90 + [1] * 9 + [2]


def test_rare_classes_come_as_often_as_their_effective_number_says(make_setting, make_ctx, epoch) -> None:
    technique, model = ClassBalanced(beta=0.9), torch.nn.Module()
    weights = technique.on_draw(make_ctx(model), technique.start_in(make_setting(LABELS), model))
    one_by_one = [1 / sum(0.9**power for power in range(LABELS.count(label))) for label in LABELS]
    torch.testing.assert_close(weights, torch.tensor(one_by_one, dtype=torch.float64))
    shares = 100 * weights.numpy() / weights.sum().item()
    assert (np.abs(epoch(weights) - shares) < 1).all()


def test_a_beta_of_one_draws_every_class_equally_often(make_setting, make_ctx, epoch) -> None:
    technique, model = ClassBalanced(beta=1.0), torch.nn.Module()
    state = technique.start_in(make_setting(LABELS), model)
    weights = technique.on_draw(make_ctx(model), state)
    assert weights is technique.on_draw(make_ctx(model, step=3), state)
    per_class = np.bincount(LABELS, weights=epoch(weights))
    assert per_class == pytest.approx([100 / 3] * 3, abs=1)
    assert state.state_dict() == {}
