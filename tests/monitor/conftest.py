"""A model that takes real steps under probes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from danlu.core.clock import Budget, Clock
from danlu.core.finding import Readings
from danlu.monitor.base import Probes


class Steps:
    """Runs probes around steps of SGD on a small model, as the loop does."""

    def __init__(self, probes: Probes, model: nn.Module, lr: float = 0.1) -> None:
        self.probes, self.model = probes, model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        self.clock = Clock(budget=Budget(steps=1000))

    def take(self, *, loss: float | None = None, log: bool = False, seconds: float = 0.5) -> Readings | None:
        self.probes.before_step(self.clock)
        torch.manual_seed(self.clock.step)
        self.optimizer.zero_grad()
        value = self.model(torch.randn(8, 6)).square().mean()
        value.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.optimizer.step()
        self.clock = self.clock.tick(examples=8, tokens=80, epochs=0.0, seconds=0.0)
        return self.probes.after_step(
            self.clock,
            optimizer=self.optimizer,
            terms={"loss": value if loss is None else torch.tensor(loss)},
            grad_norm=norm,
            num_tokens=80,
            num_examples=8,
            step_seconds=seconds,
            data_wait_seconds=0.1,
            row_losses=lambda: None,
            log=log,
        )


@pytest.fixture
def make_steps() -> Callable[..., Steps]:
    def make(*probes: object, **facts: float) -> Steps:
        torch.manual_seed(0)
        blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        model = nn.Sequential()
        model.add_module("layers", nn.Sequential(*blocks))
        model.add_module("head", nn.Linear(6, 2))
        return Steps(Probes(probes, model=model, **facts), model)

    return make
