import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from danlu.core import discover
from danlu.optim.build import build_optimizer, parameter_groups
from danlu.optim.config import KINDS, OptimizerConfig
from danlu.optim.evaluating import evaluating

NAMES = sorted(discover.paths(KINDS))
RATES = {"sgd": 0.1, "lion": 3e-3, "adafactor": 0.05}


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.inner = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.lm_head = nn.Linear(8, 11, bias=False)
        self.lm_head.weight = self.embed.weight
        self.frozen = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.conv(self.embed(tokens_BT).mT).mT
        return self.lm_head(self.norm(hidden + self.frozen(self.inner(hidden).tanh())))


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rate: float) -> list[float]:
    losses = []
    for step in steps:
        tokens = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(step % 4))
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate * group["lr_scale"], 0.01 * group["decay"]
        loss = functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_groups() -> None:
    groups = {group["role"]: group for group in parameter_groups(nn.Sequential(Tiny()))}
    assert groups["hidden"]["names"] == ["0.inner.weight"]
    assert groups["kernel"]["names"] == ["0.conv.weight"]
    assert groups["edge"]["names"] == ["0.embed.weight"]
    assert set(groups["vector"]["names"]) == {"0.conv.bias", "0.inner.bias", "0.norm.weight", "0.norm.bias"}
    assert [groups[role]["decay"] for role in ("hidden", "kernel", "edge", "vector")] == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", NAMES)
def test_learns_and_state_round_trips_bit_by_bit(kind: str) -> None:
    torch.manual_seed(0)
    model = Tiny()
    frozen = model.frozen.weight.clone()
    rate = RATES.get(kind, 1e-2)
    config = OptimizerConfig(kind=kind, lr=rate)
    optimizer = build_optimizer(config, model)
    losses = _train(model, optimizer, range(30), rate)
    assert losses[-1] < losses[0] - 0.1
    twin = copy.deepcopy(model)
    other = build_optimizer(config, twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert _train(model, optimizer, range(30, 36), rate) == _train(twin, other, range(30, 36), rate)
    for left, right in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(model.frozen.weight, frozen)


def test_looking_at_a_schedule_free_run_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Tiny()
    optimizer = build_optimizer(OptimizerConfig(kind="schedule_free", lr=0.01), model)
    _train(model, optimizer, range(5), 0.01)
    before = [weight.clone() for weight in model.parameters()]
    with evaluating(optimizer):
        assert not torch.equal(before[0], model.embed.weight)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    _train(model, optimizer, range(1), 0.01)


def test_muon_turns_matrices_and_adamw_the_rest() -> None:
    optimizer = build_optimizer(OptimizerConfig(kind="muon"), Tiny())
    assert {group["role"]: group["part"] for group in optimizer.param_groups} == {
        "hidden": "muon",
        "kernel": "adamw",
        "edge": "adamw",
        "vector": "adamw",
    }
