import numpy as np
import pytest
import torch

from danlu.core.errors import RequestError
from danlu.techniques.sample.source_temperature import SourceTemperature


@pytest.mark.parametrize("temperature", [2.0, 5.0, 1e6])
def test_sources_come_in_proportion_to_a_root_of_their_size(temperature, make_setting, make_ctx, epoch) -> None:
    sources = [0] * 1000 + [1] * 10
    technique, model = SourceTemperature(temperature=temperature), torch.nn.Module()
    weights = technique.on_draw(make_ctx(model), technique.start_in(make_setting(sources), model))
    wanted = np.array([1000, 10]) ** (1 / temperature)
    assert np.bincount(sources, weights=epoch(weights)) == pytest.approx(1010 * wanted / wanted.sum(), abs=1)


def test_data_that_do_not_tell_their_source_are_refused(make_setting) -> None:
    def column(_name: str) -> np.ndarray:
        raise RequestError("the training examples do not tell their source")

    setting = make_setting([0, 1]).__class__(column=column)
    with pytest.raises(RequestError, match="do not tell their source"):
        SourceTemperature().start_in(setting, torch.nn.Module())
    assert SourceTemperature(temperature=1.0).start_in(setting, torch.nn.Module()) is None
