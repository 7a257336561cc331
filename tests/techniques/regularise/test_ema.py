import contextlib
import copy

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from danlu.techniques.regularise.ema import Ema


def _walk(model, steps):
    """The weights after each of some arbitrary steps."""
    for step in range(steps):
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        yield step + 1


def test_equals_torchs_average(make_model, make_ctx):
    model, technique = make_model(), Ema(decay=0.7, warmup=False)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    reference.update_parameters(model)
    state = technique.start(model)
    for step in _walk(model, 5):
        reference.update_parameters(model)
        technique.after_step(make_ctx(model, technique, step=step), state)
    for name, expected in reference.module.named_parameters():
        torch.testing.assert_close(state.weights[name], expected.detach())


def test_warm_up_as_in_the_formula(make_model, make_ctx):
    model, technique = make_model(), Ema(decay=0.25)
    name, parameter = next(iter(model.named_parameters()))
    state, expected = technique.start(model), parameter.detach().double()
    for step in _walk(model, 6):
        decay = min(0.25, (1 + (step - 1)) / (10 + (step - 1)))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
        technique.after_step(make_ctx(model, technique, step=step), state)
    torch.testing.assert_close(state.weights[name].double(), expected, rtol=1e-5, atol=1e-6)
    assert state.num_updates == 6


def test_export_swaps_and_brings_back(make_model, make_ctx):
    model, technique = make_model(), Ema(decay=0.9)
    state = technique.start(model)
    for step in _walk(model, 3):
        technique.after_step(make_ctx(model, technique, step=step), state)
    before = copy.deepcopy(model.state_dict())
    with technique.on_export(model, state) as exported:
        for name, parameter in exported.named_parameters():
            assert torch.equal(parameter, state.weights[name])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with contextlib.suppress(KeyboardInterrupt), technique.on_export(model, state):
        raise KeyboardInterrupt
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_half_precision_weights_are_averaged_in_full(make_model, make_ctx):
    model, technique = make_model().bfloat16(), Ema(decay=0.999, warmup=False)
    state = technique.start(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    technique.after_step(make_ctx(model, technique, step=1), state)
    name, parameter = next(iter(model.named_parameters()))
    assert state.weights[name].dtype == torch.float32
    assert not torch.equal(state.weights[name].bfloat16(), parameter)


def test_frozen_weights_stay_out(make_model):
    model = make_model()
    model.model.embed_tokens.requires_grad_(False)
    assert "model.embed_tokens.weight" not in Ema().start(model).weights
