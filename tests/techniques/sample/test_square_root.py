import numpy as np
import pytest
import torch

from danlu.techniques.sample.square_root import SquareRoot


@pytest.mark.parametrize(("power", "shares"), [(0.5, [8, 2, 1]), (0.0, [1, 1, 1]), (0.25, [8**0.5, 2**0.5, 1])])
def test_classes_come_in_proportion_to_a_power_of_their_size(power, shares, make_setting, make_ctx, epoch) -> None:
    labels = [0] * 64 + [1] * 4 + [2]
    technique, model = SquareRoot(power=power), torch.nn.Module()
    weights = technique.on_draw(make_ctx(model), technique.start_in(make_setting(labels), model))
    per_class = sum(np.bincount(labels, weights=epoch(weights, seed)) for seed in range(20)) / 20
    assert per_class == pytest.approx(69 * np.array(shares) / sum(shares), abs=0.5)
