"""Each formula of GRPO against its paper's, written out in Python's own numbers."""

import math

import pytest
import torch

from danlu.maths.policy_gradient import clipped_surrogate, group_advantages, k3


def test_advantages_are_of_the_group() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 3.0], [0.5, 0.5, 0.5, 0.5]])
    spread = math.sqrt(sum((value - 1) ** 2 for value in (1, 0, 0, 3)) / 3)
    expected = [(value - 1) / (spread + 1e-4) for value in (1, 0, 0, 3)]
    assert group_advantages(rewards)[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert group_advantages(rewards, scaled=False)[0].tolist() == [0, -1, -1, 2]
    assert group_advantages(rewards)[1].tolist() == [0, 0, 0, 0]
    assert group_advantages(torch.tensor([[7.0]])).tolist() == [[0]]


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 2.0), (0.5, 2.0), (1.5, -2.0), (0.5, -2.0), (1.1, 1.0)])
def test_the_surrogate_is_clipped_on_the_good_side_alone(ratio: float, advantage: float) -> None:
    policy = torch.tensor(math.log(ratio), requires_grad=True)
    found = clipped_surrogate(policy, torch.zeros(()), torch.tensor(advantage), low=0.2, high=0.28)
    clipped = min(max(ratio, 0.8), 1.28)
    assert found.item() == pytest.approx(min(ratio * advantage, clipped * advantage), rel=1e-6)
    found.backward()
    follows = ratio * advantage <= clipped * advantage
    assert policy.grad.item() == pytest.approx(ratio * advantage if follows else 0.0, rel=1e-6)


def test_k3_has_the_divergence_for_its_mean() -> None:
    """Over all of a small vocabulary, weighted by the policy, as sampling would."""
    torch.manual_seed(0)
    policy, reference = (torch.randn(9).double().log_softmax(0) for _ in range(2))
    divergence = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * k3(policy, reference)).sum(), divergence)
    assert (k3(policy, reference) >= 0).all()
