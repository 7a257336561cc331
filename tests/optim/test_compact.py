import copy

import pytest
import torch
from torch import nn

from danlu.optim.build import build_optimizer
from danlu.optim.config import OptimizerConfig
from danlu.optim.offload import Offloaded


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(64, 80), nn.Linear(80, 80), nn.Tanh(), nn.Linear(80, 80), nn.LayerNorm(80))


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> float:
    for step in steps:
        tokens = torch.randint(0, 64, (32,), generator=torch.Generator().manual_seed(step))
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 3e-3, 0.01 * group["decay"]
        loss = (model(tokens) - torch.sin(tokens[:, None] * torch.arange(80))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def _run(steps: int = 60, **options: object) -> tuple[float, nn.Module, torch.optim.Optimizer]:
    model = _model()
    optimizer = build_optimizer(OptimizerConfig(**options), model)
    return _train(model, optimizer, range(steps)), model, optimizer


def _bytes(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> int:
    return sum(value.numel() * value.element_size() for value in optimizer.state[weight].values() if value.ndim)


@pytest.mark.parametrize(("states", "a_weight", "tolerance"), [("bf16", 4.0, 0.02), ("8bit", 2.04, 0.02)])
def test_learns_as_torchs_adamw_does(states: str, a_weight: float, tolerance: float) -> None:
    whole, _, _ = _run()
    compact, model, optimizer = _run(states=states)
    assert compact == pytest.approx(whole, rel=tolerance)
    matrix = model[1].weight
    assert _bytes(optimizer, matrix) <= a_weight * matrix.numel()
    assert _bytes(optimizer, model[4].weight) == 8 * 80  # what is small stays whole
    assert _bytes(optimizer, model[0].weight) == (4 if states == "bf16" else 8) * 64 * 80


def test_small_weights_are_torchs_number_for_number() -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(8, 8), nn.Linear(8, 8)
    two.load_state_dict(one.state_dict())
    optimizers = [
        build_optimizer(OptimizerConfig(states=states), model) for states, model in (("fp32", one), ("bf16", two))
    ]
    for step in range(5):
        for model, optimizer in zip((one, two), optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"], group["weight_decay"] = 0.01, 0.1 * group["decay"]
            optimizer.zero_grad()
            model(torch.ones(2, 8) * step).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(two.weight, one.weight, rtol=1e-6, atol=1e-7)


def test_a_small_change_of_the_second_moment_is_not_lost() -> None:
    """v falls from 1 to 0 by 1/1000 a step, less than bf16 can hold: rounded to the nearest it would stay at 1."""
    weight = nn.Linear(64, 64, bias=False)
    optimizer = build_optimizer(OptimizerConfig(states="bf16", betas=(0.9, 0.999)), weight)
    weight.weight.grad = torch.zeros(64, 64)
    optimizer.step()
    optimizer.state[weight.weight]["square"].fill_(1.0)
    for _ in range(200):
        optimizer.step()
    assert optimizer.state[weight.weight]["square"].float().mean().item() == pytest.approx(0.999**200, rel=0.01)


@pytest.mark.parametrize("options", [{"states": "bf16"}, {"states": "8bit"}])
def test_state_round_trips_bit_by_bit(options: dict[str, str]) -> None:
    _, model, optimizer = _run(5, **options)
    twin = copy.deepcopy(model)
    other = build_optimizer(OptimizerConfig(**options), twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert _train(model, optimizer, range(5, 9)) == _train(twin, other, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


class Watched(Offloaded):
    """Remembers whose state moved."""

    def _moved(self, weight, group, device):  # type: ignore[no-untyped-def]
        vars(self).setdefault("moved", []).append(id(weight))
        return super()._moved(weight, group, device)


@pytest.mark.parametrize(
    "options",
    [{"kind": kind} for kind in ("adamw", "sgd", "muon", "schedule_free", "lion")] + [{"states": "bf16"}],
    ids=str,
)
def test_offloading_changes_no_number(options: dict[str, str]) -> None:
    _, plain, optimizer = _run(6, **options)
    model = _model()
    offloaded = Watched(build_optimizer(OptimizerConfig(**options), model))
    _train(model, offloaded, range(3))
    assert offloaded.moved[::2] == offloaded.moved[1::2]  # fetched and sent home, one after the other
    state = copy.deepcopy(offloaded.state_dict())
    again = Offloaded(build_optimizer(OptimizerConfig(**options), model))
    again.load_state_dict(state)
    _train(model, again, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert again.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()


def test_offloading_is_left_out_on_a_cpu() -> None:
    config = OptimizerConfig(offload=True)
    assert not isinstance(build_optimizer(config, _model()), Offloaded)
    assert isinstance(build_optimizer(config, _model().to("meta")), Offloaded)
