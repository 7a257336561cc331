import copy

import pytest
import torch

from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials
from danlu.core.errors import RequestError
from danlu.core.technique import StepContext, Technique, in_order
from danlu.techniques.regularise.sam import Sam


def by_hand(model: torch.nn.Linear, x, y, rho: float, adaptive: bool) -> list[torch.Tensor]:
    """The gradient at w + ε, ε as the papers have it, over all weights as one vector."""
    model = copy.deepcopy(model)
    parameters = list(model.parameters())
    flat = torch.cat([g.flatten() for g in torch.autograd.grad((model(x) - y).square().mean(), parameters)])
    w = torch.cat([parameter.detach().flatten() for parameter in parameters])
    epsilon = rho * w.square() * flat / (w.abs() * flat).norm() if adaptive else rho * flat / flat.norm()
    torch.nn.utils.vector_to_parameters(w + epsilon, parameters)
    return list(torch.autograd.grad((model(x) - y).square().mean(), parameters))


@pytest.mark.parametrize("adaptive", [False, True])
def test_gradients_are_those_uphill_and_the_weights_stay(adaptive: bool) -> None:
    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(5, 3), torch.randn(7, 5), torch.randn(7, 3)
    technique, before = Sam(rho=0.3, adaptive=adaptive), copy.deepcopy(model.state_dict())
    clock = Clock(budget=Budget(steps=3))
    ctx = StepContext(clock=clock, dials=Dials(technique.dials()), model=model, seed=0, device=torch.device("cpu"))
    losses = []

    def compute() -> float:
        model.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        losses.append(loss.item())
        return losses[-1]

    found = technique.gradients(compute, list(model.parameters()), ctx, None)
    assert len(losses) == 2
    assert losses[1] > losses[0] == found
    for parameter, expected in zip(model.parameters(), by_hand(model, x, y, 0.3, adaptive), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_one_technique_may_make_the_gradients() -> None:
    class Other(Technique):
        def gradients(self, compute, parameters, ctx, state):
            return compute()

        @classmethod
        def name(cls) -> str:
            return "other"

    with pytest.raises(RequestError, match="each have a way of their own"):
        in_order([Sam(), Other()])
