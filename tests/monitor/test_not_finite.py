"""The first thing that is not finite is named: weights, inputs, outputs, gradients, in the order of computing."""

import math

import pytest
import torch
from torch import nn

from danlu.monitor.findings.base import History
from danlu.monitor.not_finite import as_readings, first_not_finite


class _Block(nn.Module):
    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.up, self.down, self.fault = nn.Linear(6, 8), nn.Linear(8, 6), fault

    def forward(self, x):
        hidden = self.up(x).relu()
        if self.fault == "output":
            hidden = hidden * math.inf
        if self.fault == "gradient":  # finite forward, 0 · inf backward
            hidden = hidden + (hidden * 0).sqrt()
        return x + self.down(hidden)


def _model(fault=""):
    torch.manual_seed(0)
    return nn.Sequential(_Block(), _Block(fault), _Block())


def _trouble(model, rows=None):
    rows = torch.randn(4, 6) if rows is None else rows

    def run():
        model.zero_grad()
        loss = model(rows).square().mean()
        loss.backward()
        return loss

    found = first_not_finite(model, run)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return None if found is None else (found.module, found.what)


def test_a_finite_step_has_no_trouble():
    assert _trouble(_model()) is None


def test_outputs_and_gradients_name_the_module_they_arise_in():
    assert _trouble(_model("output")) == ("1.down", "input")  # it arose in the block, between `up` and `down`
    assert _trouble(_model("gradient")) == ("1.up", "gradient")


def test_weights_and_the_batch_come_first():
    model = _model("output")
    model[2].up.weight.data[0, 0] = math.nan
    assert _trouble(model) == ("2.up", "weight")
    rows = torch.randn(4, 6)
    rows[1, 2] = math.nan
    assert _trouble(_model(), rows) == ("", "input")


def test_a_hook_that_spoils_a_gradient_is_found():
    model = _model()
    model[1].down.weight.register_hook(lambda gradient: gradient * math.nan)
    assert _trouble(model) == ("1.down", "gradient")


@pytest.mark.parametrize("bad", [True, False])
def test_the_journal_keeps_the_layer_and_the_examples(bad):
    model = _model("output" if bad else "")
    trouble = first_not_finite(model, lambda: model(torch.randn(4, 6)).sum())
    readings = as_readings(7, trouble, [3, 9])
    history = History.of(
        [{"kind": "reading", "step": 7, "values": dict(readings.values), "noted": {"not_finite": [3, 9]}}]
    )
    assert history.names == (["not_finite/input/1.down"] if bad else [])
    assert history.examples == readings.examples == {"not_finite": (3, 9)}
