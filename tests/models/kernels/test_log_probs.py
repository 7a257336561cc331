"""Log-probabilities of tokens: the fused way against plain logits, values and gradients."""

import pytest
import torch
from torch import nn

from danlu.core.outputs import Outputs
from danlu.models.kernels.log_probs import token_log_probs


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_fused_is_plain(bias: bool, temperature: float) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 50, bias=bias)
    hidden, asked = torch.randn(3, 7, 8, requires_grad=True), torch.randn(3, 7)
    labels = torch.randint(0, 50, (3, 7))
    labels[:, 4:] = -100
    leaves = [hidden, *head.parameters()]
    expected = torch.log_softmax(head(hidden) / temperature, -1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    expected = expected * (labels != -100)
    slopes = torch.autograd.grad((expected * asked).sum(), leaves)
    for outputs in (Outputs(hidden=hidden, head=head), Outputs(logits=head(hidden))):
        found = token_log_probs(outputs, labels, temperature=temperature)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        for one, two in zip(torch.autograd.grad((found * asked).sum(), leaves), slopes, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_frozen_head_and_autocast() -> None:
    """What LoRA trains through: the gradient goes to the hidden states alone, in the type of autocast."""
    torch.manual_seed(0)
    head = nn.Linear(16, 40, bias=False).requires_grad_(False)
    hidden, labels = torch.randn(2, 5, 16, requires_grad=True), torch.randint(0, 40, (2, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_log_probs(Outputs(hidden=hidden, head=head), labels)
    assert found.dtype == torch.float32
    found.sum().backward()
    plain = hidden.detach().requires_grad_()
    torch.log_softmax(head(plain), -1).gather(2, labels[..., None]).sum().backward()
    torch.testing.assert_close(hidden.grad, plain.grad, rtol=0.05, atol=0.02)
    assert head.weight.grad is None
