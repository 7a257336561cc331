"""Each formula against its paper's, written out in Python's own numbers."""

import math

import pytest
import torch

from danlu.maths import preferences as formulas

# log π and log π_ref of three chosen and rejected completions
CHOSEN, REJECTED = (-12.0, -7.5, -30.25), (-11.0, -9.0, -18.5)
CHOSEN_REF, REJECTED_REF = (-13.0, -7.0, -29.0), (-10.5, -8.0, -21.0)
BETA = 0.3


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def margins() -> torch.Tensor:
    chosen, rejected = (
        torch.tensor(CHOSEN) - torch.tensor(CHOSEN_REF),
        torch.tensor(REJECTED) - torch.tensor(REJECTED_REF),
    )
    return chosen - rejected


def rows() -> list[tuple[float, float, float, float]]:
    return list(zip(CHOSEN, REJECTED, CHOSEN_REF, REJECTED_REF, strict=True))


def test_dpo_is_equation_7_of_rafailov() -> None:
    expected = [-math.log(sigmoid(BETA * (w - w_ref) - BETA * (lo - lo_ref))) for w, lo, w_ref, lo_ref in rows()]
    assert formulas.dpo_losses(margins(), beta=BETA).tolist() == pytest.approx(expected, rel=1e-6)


def test_conservative_dpo_mixes_both_labels() -> None:
    found = formulas.dpo_losses(margins(), beta=BETA, label_smoothing=0.2).tolist()
    for value, (w, lo, w_ref, lo_ref) in zip(found, rows(), strict=True):
        p = sigmoid(BETA * (w - w_ref - lo + lo_ref))
        assert value == pytest.approx(-0.8 * math.log(p) - 0.2 * math.log(1 - p), rel=1e-5)


def test_ipo_is_equation_17_of_azar() -> None:
    """h = log (π(y_w) π_ref(y_l)) / (π(y_l) π_ref(y_w))."""
    expected = []
    for w, lo, w_ref, lo_ref in rows():
        h = math.log(math.exp(w) * math.exp(lo_ref) / (math.exp(lo) * math.exp(w_ref)))
        expected.append((h - 1 / BETA / 2) ** 2)
    assert formulas.ipo_losses(margins(), beta=BETA).tolist() == pytest.approx(expected, rel=1e-5)


def test_hinge_stops_at_a_wide_margin() -> None:
    expected = [max(0.0, 1 - BETA * (w - w_ref - lo + lo_ref)) for w, lo, w_ref, lo_ref in rows()]
    assert formulas.hinge_losses(margins(), beta=BETA).tolist() == pytest.approx(expected, rel=1e-6)
    assert formulas.hinge_losses(torch.tensor([5.0]), beta=BETA).tolist() == [0.0]


def test_orpo_is_equations_6_and_7_of_hong() -> None:
    """Of the mean log-probabilities of completions with 6 and 5 tokens."""
    for w, lo, _, _ in rows():
        p_w, p_l = math.exp(w / 6), math.exp(lo / 5)
        ratio = (p_w / (1 - p_w)) / (p_l / (1 - p_l))
        expected = -math.log(p_w) - 0.25 * math.log(sigmoid(math.log(ratio)))
        found = formulas.orpo_losses(torch.tensor([w / 6]), torch.tensor([lo / 5]), beta=0.25)
        assert found.item() == pytest.approx(expected, rel=1e-5)
    sure = torch.tensor([-1e-9], requires_grad=True)  # a certain completion has no finite odds
    formulas.orpo_losses(sure, torch.tensor([-1.0]), beta=0.25).backward()
    assert torch.isfinite(sure.grad).all()


def test_kto_is_equation_8_of_ethayarajh() -> None:
    ratios = torch.tensor([2.0, -1.0, 0.5, -3.0], requires_grad=True)
    desirable = torch.tensor([True, False, False, True])
    apart, counted = torch.tensor([0.5, 1.5, 9.0]), torch.tensor([True, True, False])
    z = formulas.kto_divergence(apart, counted)
    assert float(z) == pytest.approx(1.0)
    assert float(formulas.kto_divergence(-apart, counted)) == 0.0
    assert float(formulas.kto_divergence(apart, torch.zeros(3, dtype=torch.bool))) == 0.0
    found = formulas.kto_losses(ratios, desirable, z, beta=BETA, desirable=1.0, undesirable=1.33)
    expected = [
        1.0 - 1.0 * sigmoid(BETA * (2.0 - 1.0)),
        1.33 - 1.33 * sigmoid(BETA * (1.0 - -1.0)),
        1.33 - 1.33 * sigmoid(BETA * (1.0 - 0.5)),
        1.0 - 1.0 * sigmoid(BETA * (-3.0 - 1.0)),
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    slopes = ratios.grad.tolist()
    assert slopes[0] < 0 < slopes[1]
