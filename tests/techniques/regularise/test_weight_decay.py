import torch

from danlu.optim.build import build_optimizer
from danlu.optim.config import OptimizerConfig
from danlu.techniques.regularise.weight_decay import WeightDecay


def test_l1_is_the_gradient_of_the_sum_of_sizes(make_model, make_ctx):
    model, technique = make_model(), WeightDecay(l1=0.01)
    state = technique.start(model)
    decayed = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    penalty = 0.01 * sum(parameter.abs().sum() for name, parameter in model.named_parameters() if name in decayed)
    penalty.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if name in decayed}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    technique.on_grads(list(model.parameters()), make_ctx(model, technique), state)
    assert state.names == decayed
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected.get(name, torch.zeros_like(parameter)))


def test_l2_is_torchs_decoupled_decay(make_model, make_ctx):
    model, technique = make_model(), WeightDecay(l2=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(OptimizerConfig(kind="adamw", lr=0.01), model)
    for group in optimizer.param_groups:
        group["weight_decay"] = make_ctx(model, technique).dial("weight_decay") * group["decay"]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.01 * 0.1 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


def test_off_leaves_gradients_alone(make_model, make_ctx):
    model, technique = make_model(), WeightDecay(**WeightDecay.off)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    technique.on_grads(list(model.parameters()), make_ctx(model, technique), technique.start(model))
    assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters(), strict=True))
