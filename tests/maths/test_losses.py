import pytest
import torch
from torch.nn import functional

from danlu.maths.losses import cross_entropies, focal, focal_slope, weighted_sum

LABELS = torch.tensor([1, -100, 3, 6, -100])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_are_torchs_and_zero_without_a_label(smoothing: float) -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    losses, plain = cross_entropies(logits, LABELS, label_smoothing=smoothing)
    expected = functional.cross_entropy(logits, LABELS, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(plain, functional.cross_entropy(logits.detach(), LABELS, reduction="none"))
    assert losses.requires_grad
    assert not plain.requires_grad


def test_weights_and_low_precision() -> None:
    logits, weights = torch.randn(5, 7), torch.tensor([2.0, 5.0, 0.0, 1.0, 3.0])
    losses, _ = cross_entropies(logits, LABELS)
    torch.testing.assert_close(weighted_sum(losses, weights), 2 * losses[0] + losses[3])
    assert weighted_sum(losses, None) == losses.sum()
    assert cross_entropies(logits.bfloat16(), LABELS)[0].dtype == torch.float32


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_is_the_formula_with_its_slope(gamma: float) -> None:
    probabilities = torch.tensor([0.01, 0.3, 0.9, 0.999], dtype=torch.float64)
    losses = (-probabilities.log()).requires_grad_()
    found = focal(losses, gamma)
    torch.testing.assert_close(found, -((1 - probabilities) ** gamma) * probabilities.log())
    (slope,) = torch.autograd.grad(found.sum(), losses)
    torch.testing.assert_close(focal_slope(losses.detach(), gamma), slope)
    certain = torch.zeros(1, requires_grad=True)
    focal(certain, gamma).backward()
    assert torch.isfinite(certain.grad).all()


def test_without_focus_focal_is_the_loss_itself() -> None:
    losses = torch.rand(4)
    assert focal(losses, 0.0) is losses
