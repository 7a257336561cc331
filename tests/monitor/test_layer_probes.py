"""The probes that look into the model, number for number, and that they leave nothing behind."""

import copy

import pytest
import torch
from torch import nn

from danlu.maths.noise_scale import signal_and_noise
from danlu.monitor.base import Facts, Probes
from danlu.monitor.probes.activations import Activations
from danlu.monitor.probes.gradient_direction import GradientDirection
from danlu.monitor.probes.gradient_noise import GradientNoise
from danlu.monitor.probes.layer_gradients import LayerGradients
from danlu.monitor.probes.parameters import Parameters
from danlu.monitor.probes.weight_range import WeightRange


def _gradients(model):
    return torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.ndim > 1])


def test_the_cosine_of_gradients_in_a_row(make_steps):
    steps = make_steps(GradientDirection(every=3))
    assert steps.take(log=True).values == {}  # there is none before it
    before = _gradients(steps.model)
    values = steps.take(log=True).values
    expected = torch.cosine_similarity(before, _gradients(steps.model), dim=0)
    assert values["gradient_cosine"] == pytest.approx(expected.item(), rel=1e-5)


def test_norms_of_gradients_and_ranges_of_weights(make_steps):
    steps = make_steps(LayerGradients(), WeightRange())
    values = steps.take(log=True).values
    part = steps.model.layers[1]
    norm = torch.cat([part.weight.grad.flatten(), part.bias.grad]).norm()
    assert values["layer_grad_norm/layers.1"] == pytest.approx(norm.item(), rel=1e-5)
    assert values["weight_rms/layers.1"] == pytest.approx(part.weight.square().mean().sqrt().item(), rel=1e-5)
    assert values["weight_max/head"] == pytest.approx(steps.model.head.weight.abs().max().item(), rel=1e-6)


class _Layer(nn.Sequential):
    def __init__(self, function):
        super().__init__(nn.Linear(6, 6), function)


@pytest.mark.parametrize("function", [nn.ReLU(), nn.GELU(), nn.SiLU()])
def test_units_that_never_fire_are_dead(make_steps, function):
    steps = make_steps(Activations())
    steps.model.layers[0], steps.model.layers[1] = _Layer(function), _Layer(copy.deepcopy(function))
    nn.init.constant_(steps.model.layers[1][0].bias, -10.0)
    nn.init.constant_(steps.model.layers[0][0].bias, 1.0)
    steps.probes = Probes([Activations()], model=steps.model)
    with steps.probes.probes["activations"].around(steps.probes.facts) as seen:
        steps.model(torch.randn(64, 6))
    readings = Activations().read(None, seen)
    assert float(readings["dead_units/layers.1"]) == 1.0
    assert float(readings["dead_units/layers.0"]) == 0.0
    assert not any(module._forward_hooks for module in steps.model.modules())


def test_the_share_of_saturated_values_and_too_few_rows(make_steps):
    model = nn.Sequential(nn.Linear(6, 4), nn.Sigmoid())
    nn.init.constant_(model[0].bias, 50.0)
    with Activations().around(Facts(model=model)) as seen:
        model(torch.randn(64, 6))
    assert float(Activations().read(None, seen)["saturated/1"]) == 1.0
    with Activations().around(Facts(model=nn.Sequential(nn.ReLU()))) as seen:
        nn.Sequential(nn.ReLU())(torch.randn(2, 6))
    assert "dead_units/0" not in Activations().read(None, seen)


def test_what_is_not_trained_by_mistake(make_steps):
    steps = make_steps(Parameters())
    assert [steps.take(log=True).values for _ in range(2)] == [{"gradients_kept": 0.0}] * 2
    steps.model.layers[1].requires_grad_(False)
    del steps.optimizer.param_groups[0]["params"][-2:]
    steps.optimizer.zero_grad = lambda: None
    steps.clock = steps.clock.tick(examples=0, tokens=0, epochs=0, seconds=0)
    steps.clock = steps.clock.tick(examples=0, tokens=0, epochs=0, seconds=0)
    values = steps.take(log=True).values
    assert values["frozen/layers.1"] == values["forgotten/head"] == 1.0
    assert values["gradients_kept"] > 0
    names = frozenset(name for name, _ in steps.model.named_parameters())
    steps.probes = Probes([Parameters(every=1)], model=steps.model, frozen_on_purpose=names)
    assert "frozen/layers.1" not in steps.take(log=True).values


def test_the_noise_scale_is_that_of_the_gradients_noise():
    """Gradients drawn around a known mean: |G|² = 4, tr(Σ) = 100 · 0.25."""
    torch.manual_seed(0)
    mean, examples = torch.zeros(100), torch.randn(4000, 64, 100) * 0.5
    mean[0] = 2.0
    parts = (examples + mean).view(4000, 4, 16, 100).mean(2)
    signal, noise = signal_and_noise(parts.square().sum(-1).mean(), parts.mean(1).square().sum(-1).mean(), 16, 64)
    assert signal.item() == pytest.approx(4.0, rel=0.02)
    assert noise.item() == pytest.approx(25.0, rel=0.02)


def test_the_noise_scale_is_read_from_micro_batches():
    torch.manual_seed(0)
    model = nn.Linear(30, 1, bias=False)
    probes, scales = Probes([GradientNoise(every=1)], model=model), []

    class _Ctx:
        num_examples = 64

    for _ in range(50):
        model.zero_grad()
        with GradientNoise().around(probes.facts) as pieces:
            for _ in range(4):
                rows = torch.randn(16, 30)
                ((model(rows)[:, 0] - rows[:, 0] - torch.randn(16)).square().sum() / 64).backward()
        scales.append(GradientNoise().read(_Ctx(), pieces))
    series = {name: [float(entry[name]) for entry in scales] for name in ("signal", "noise")}
    scale = GradientNoise().summarise(series)["gradient_noise_scale"]
    rows = torch.randn(20000, 30)
    each = 2 * (model(rows)[:, 0] - rows[:, 0] - torch.randn(20000))[:, None] * rows
    assert scale == pytest.approx((each.var(0).sum() / each.mean(0).square().sum()).item(), rel=0.15)
    assert not model.weight._post_accumulate_grad_hooks
