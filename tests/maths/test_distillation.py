import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional

from danlu.maths.distillation import NOTHING, coarse, divergence, likeliest, sum_in_chunks, symmetric


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.randn(6, 11).log_softmax(-1), torch.randn(6, 11).log_softmax(-1)


def test_divergences_are_torchs(pair):
    teacher, student = pair
    p, q = Categorical(logits=teacher), Categorical(logits=student)
    m = Categorical(probs=0.3 * p.probs + 0.7 * q.probs)
    torch.testing.assert_close(divergence(teacher, student), kl_divergence(p, q))
    torch.testing.assert_close(divergence(teacher, student, "reverse"), kl_divergence(q, p))
    js = 0.3 * kl_divergence(p, m) + 0.7 * kl_divergence(q, m)
    torch.testing.assert_close(divergence(teacher, student, "js", 0.3), js)
    torch.testing.assert_close(symmetric(teacher, student), (kl_divergence(p, q) + kl_divergence(q, p)) / 2)


def test_js_has_both_kl_at_its_ends(pair):
    teacher, student = (log_probs.double() for log_probs in pair)
    for beta, kind in ((1e-5, "forward"), (1 - 1e-5, "reverse")):
        scaled = divergence(teacher, student, "js", beta) / (beta * (1 - beta))
        torch.testing.assert_close(scaled, divergence(teacher, student, kind), rtol=1e-3, atol=1e-6)


def test_a_worked_case():
    teacher, student = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.25, 0.25, 0.5]).log()
    assert float(divergence(teacher, student)) == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    indices = torch.tensor([0])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(divergence(coarse(teacher, indices), coarse(student, indices))) == pytest.approx(expected)


def test_coarse_keeps_all_mass_and_never_sees_more(pair):
    teacher, student = pair
    whole = divergence(teacher, student)
    for k in (1, 4, 10, 11):
        kept, indices = likeliest(teacher, k)
        torch.testing.assert_close(kept.exp().sum(-1), torch.ones(6))
        apart = divergence(kept, coarse(student, indices))
        assert (apart <= whole + 1e-6).all()
        if k >= 10:
            torch.testing.assert_close(apart, whole)
    assert (likeliest(teacher, 11)[0][:, -1] == NOTHING).all()


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_gradients_stay_finite_when_the_teacher_is_certain(kind):
    teacher, student = torch.tensor([[200.0, 0.0, -50.0]]), torch.tensor([[-100.0, 0.0, 100.0]], requires_grad=True)
    kept, indices = likeliest(teacher, 1)
    divergence(kept, coarse(student, indices), kind).sum().backward()
    assert student.grad.isfinite().all()


def test_chunks_change_nothing():
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(10, 4), torch.randn(7, 4, requires_grad=True), torch.randint(0, 7, (10,))

    def loss_of(part: slice) -> torch.Tensor:
        return functional.cross_entropy(hidden[part] @ weight.T, labels[part], reduction="sum")

    whole, parts = sum_in_chunks(loss_of, 10, 10), sum_in_chunks(loss_of, 10, 3)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, weight), torch.autograd.grad(whole, weight))
    assert float(sum_in_chunks(loss_of, 0, 3).detach()) == 0.0
