import copy

import pytest
import torch
from pydantic import ValidationError

from danlu.techniques.regularise.grad_clip import GradClip


def _with_gradients(make_model):
    model = make_model()
    model(torch.arange(12).view(2, 6), labels=torch.arange(12).view(2, 6)).loss.backward()
    return model


@pytest.mark.parametrize("norm", [0.05, 1.0, 1e6])
def test_equals_torch(make_model, make_ctx, norm):
    model = _with_gradients(make_model)
    reference = copy.deepcopy(model)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        theirs.grad = ours.grad.clone()
    total = torch.nn.utils.clip_grad_norm_(reference.parameters(), norm)
    technique = GradClip(norm=norm)
    technique.on_grads(list(model.parameters()), make_ctx(model, technique, grad_norm=lambda: total), None)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_infinite_norm_is_the_identity(make_model, make_ctx):
    model = _with_gradients(make_model)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    technique = GradClip(norm=float("inf"))
    technique.on_grads(list(model.parameters()), make_ctx(model, technique, grad_norm=lambda: torch.tensor(3.0)), None)
    assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters(), strict=True))


def test_a_norm_of_zero_is_refused():
    with pytest.raises(ValidationError):
        GradClip(norm=0)
