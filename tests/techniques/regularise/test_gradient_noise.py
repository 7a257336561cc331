import pytest
import torch

from danlu.techniques.regularise.gradient_noise import GradientNoise


def _noise(model, technique, ctx):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    technique.on_grads(list(model.parameters()), ctx, None)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("step", [0, 9])
def test_has_the_variance_of_the_paper(make_model, make_ctx, step):
    model, technique = make_model(), GradientNoise(eta=0.3, gamma=0.55)
    noise = _noise(model, technique, make_ctx(model, technique, step=step))
    deviation = (0.3 / (1 + step) ** 0.55) ** 0.5
    assert noise.std().item() == pytest.approx(deviation, rel=0.03)
    assert abs(noise.mean().item()) < 4 * deviation / len(noise) ** 0.5


def test_is_a_function_of_the_step(make_model, make_ctx):
    model, technique = make_model(), GradientNoise()
    first, again, later = (_noise(model, technique, make_ctx(model, technique, step=step)) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_off(make_model, make_ctx):
    model, technique = make_model(), GradientNoise(eta=0.0)
    assert not _noise(model, technique, make_ctx(model, technique)).any()
