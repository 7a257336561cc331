"""Diagnoses of rate, batch, regularisation and data: on readings where they must speak, and where they must not."""

import math

import numpy as np
import pytest

from danlu.core.finding import Evaluation, Readings
from danlu.monitor.findings.bad_examples import BadExamples
from danlu.monitor.findings.bad_initialisation import BadInitialisation
from danlu.monitor.findings.base import History
from danlu.monitor.findings.batch_too_large import BatchTooLarge
from danlu.monitor.findings.batch_too_small import BatchTooSmall
from danlu.monitor.findings.class_imbalance import ClassImbalance
from danlu.monitor.findings.distribution_switch import DistributionSwitch
from danlu.monitor.findings.label_noise import LabelNoise
from danlu.monitor.findings.oscillation import Oscillation
from danlu.monitor.findings.over_regularised import OverRegularised
from danlu.monitor.findings.rate_too_high import RateTooHigh
from danlu.monitor.findings.rate_too_low import RateTooLow
from danlu.monitor.findings.shuffled_labels import ShuffledLabels
from danlu.monitor.findings.underfitting import Underfitting


def _run(readings, evaluations=(), noted=()):
    """Readings five steps apart; evaluations are (step, loss)."""
    history = History()
    for number, values in enumerate(readings, start=1):
        history.add(Readings(step=5 * number, values=values, examples=dict(noted)))
    for step, loss in evaluations:
        history.add_evaluation(Evaluation(step=step, metrics={"loss": loss}, judged="loss", better="lower"))
    return history


def _readings(losses, **values):
    return [{"loss": float(loss), "learning_rate": 1e-3} | {k: float(v) for k, v in values.items()} for loss in losses]


def test_a_rate_is_too_high_when_steps_undo_the_weights():
    wild = [entry | {"update_ratio/a": 0.1, "update_ratio/b": 0.2} for entry in _readings([2.3, 2.4, 2.3, 2.5])]
    (finding,) = RateTooHigh().diagnose(_run(wild))
    assert finding.evidence["update_ratio"] == pytest.approx(0.15)
    assert finding.suggests[1].number == pytest.approx(0.01 / 0.15)
    usual = [
        entry | {"update_ratio/a": 0.02, "update_ratio/b": 0.2, "update_ratio/c": 0.01}
        for entry in _readings([2.3, 2.4, 2.3, 2.5])
    ]
    assert RateTooHigh().diagnose(_run(usual)) == []  # the median counts, not one layer
    learning = [entry | {"update_ratio/a": 0.1} for entry in _readings([2.3, 1.0, 0.6, 0.5])]
    assert RateTooHigh().diagnose(_run(learning)) == []


def test_a_rate_is_too_low_when_an_untrained_model_stands_still():
    still = _readings(np.linspace(0.76, 0.75, 10), **{"update_ratio/a": 1e-4, "chance_loss": math.log(2)})
    assert RateTooLow().diagnose(_run(still))[0].suggests[0].number == pytest.approx(50)
    learning = _readings(np.linspace(0.76, 0.5, 10), **{"update_ratio/a": 1e-4, "chance_loss": math.log(2)})
    assert RateTooLow().diagnose(_run(learning)) == []
    tuned = _readings(np.linspace(0.3, 0.29, 10), **{"update_ratio/a": 1e-4, "chance_loss": math.log(2)})
    assert RateTooLow().diagnose(_run(tuned)) == []
    usual = _readings(np.linspace(0.76, 0.75, 10), **{"update_ratio/a": 5e-3, "chance_loss": math.log(2)})
    assert RateTooLow().diagnose(_run(usual)) == []


def test_a_run_oscillates_when_gradients_turn_round_and_the_loss_stays():
    assert Oscillation().diagnose(_run(_readings([1.0] * 12, gradient_cosine=-0.6)))[0].name == "oscillation"
    assert Oscillation().diagnose(_run(_readings([1.0] * 12, gradient_cosine=0.1))) == []
    assert Oscillation().diagnose(_run(_readings([1.0] * 12, gradient_cosine=-0.42))) == []  # as in healthy runs
    assert Oscillation().diagnose(_run(_readings(np.linspace(1, 0.5, 12), gradient_cosine=-0.6))) == []


def test_a_start_far_worse_than_guessing():
    assert BadInitialisation().diagnose(_run(_readings([2.6], chance_loss=math.log(10)))) == []
    assert BadInitialisation().diagnose(_run(_readings([60.0], chance_loss=math.log(10))))[0].severity == "warning"


def test_batches():
    small = _readings([1.0] * 14, batch_examples=2, tokens_per_second=100, examples_per_second=50, gradient_cosine=0.03)
    assert BatchTooSmall().diagnose(_run(small))[0].evidence["noise_scale"] == pytest.approx(2 * 0.97 / 0.03)
    assert BatchTooSmall().diagnose(_run([entry | {"batch_examples": 32.0} for entry in small])) == []
    assert BatchTooSmall().diagnose(_run([entry | {"tokens_per_second": 1e5} for entry in small])) == []
    large = _readings([1.0] * 14, batch_examples=500, gradient_cosine=0.9)
    large = [entry | {"passes": 2.5 * (at + 1)} for at, entry in enumerate(large)]
    assert BatchTooLarge().diagnose(_run(large))[0].evidence["steps_a_pass"] == pytest.approx(2.0)
    assert BatchTooLarge().diagnose(_run([entry | {"gradient_cosine": 0.3} for entry in large])) == []


def test_over_regularised_by_noise_and_by_decay():
    held = _readings([2.3] + [2.0] * 12)
    assert OverRegularised().diagnose(_run(held, [(20, 1.5), (40, 1.4), (60, 1.4)]))[0].evidence["gap"] > 0.5
    assert OverRegularised().diagnose(_run(held, [(20, 1.95), (40, 1.95), (60, 1.95)])) == []
    shrinking = [entry | {"weight_rms/a": 0.9**at} for at, entry in enumerate(_readings([2.3, *[2.2] * 12]))]
    assert "shrunk" in OverRegularised().diagnose(_run(shrinking))[0].sentence
    noisy = _readings([0.69] + [0.9] * 12, chance_loss=math.log(2))
    assert OverRegularised().diagnose(_run(noisy, [(20, 0.67), (40, 0.66), (60, 0.66)]))[0].evidence["gap"] > 0.25
    learning = [entry | {"loss": 2.3 * 0.8**at} for at, entry in enumerate(shrinking)]
    assert OverRegularised().diagnose(_run(learning)) == []


def test_a_heavy_regulariser_is_named_before_the_labels_are():
    told = {"label_entropy": 2.3, "chance_loss": 2.3, "passes": 4.0, "update_ratio/a": 0.01, "weight_rms/a": 1.0}
    stuck = _readings([2.3] * 20, **told)
    valid = [(40, 2.3), (70, 2.3), (100, 2.3)]
    dropped = [entry | {"dial/dropout": 0.8} for entry in stuck]
    (finding,) = OverRegularised().diagnose(_run(dropped, valid))
    assert (finding.evidence["dial/dropout"], finding.suggests) == (0.8, ())
    assert ShuffledLabels().diagnose(_run(dropped, valid)) == []
    history = _run([entry | {"dial/weight_decay": 10.0} for entry in stuck], valid)
    assert not OverRegularised().diagnose(history)[0].suggests[0].skip_data
    history.forget_after(0)
    assert history.series("chance_loss", 1) == [2.3]
    assert OverRegularised().diagnose(_run(stuck, valid)) == []
    assert len(ShuffledLabels().diagnose(_run(stuck, valid))) == 1
    begun = _readings([2.3 * 0.97**at for at in range(20)], **told | {"dial/dropout": 0.8})
    assert OverRegularised().diagnose(_run(begun)) == []


def test_underfitting_is_a_note():
    readings = _readings([2.3] + [2.0] * 12)
    told = Underfitting().diagnose(_run(readings, [(at, 2.0) for at in (20, 40, 50, 60)]))
    assert [finding.severity for finding in told] == ["note"]
    assert Underfitting().diagnose(_run(readings, [(20, 2.2), (40, 2.1), (50, 2.0), (60, 1.9)])) == []


def test_class_imbalance_among_enough_examples():
    values = {"class_ratio": 100.0, "num_classes": 2.0, "examples_known": 500.0}
    assert ClassImbalance().diagnose(_run([values]))[0].evidence["class_ratio"] == 100
    assert ClassImbalance().diagnose(_run([values | {"class_ratio": 3.0}])) == []
    assert ClassImbalance().diagnose(_run([values | {"examples_known": 30.0}])) == []


def test_label_noise_needs_two_groups_and_a_better_validation():
    groups = {"low_share": 0.2, "low_p": 0.1, "high_p": 0.8}
    noisy = _readings([0.6] * 9, **groups)
    (finding,) = LabelNoise().diagnose(_run(noisy, [(20, 0.3)], {"low_p": (3, 5)}))
    assert finding.example_ids == finding.suggests[0].example_ids == (3, 5)
    assert LabelNoise().diagnose(_run(noisy, [(20, 0.7)])) == []  # examples that are hard, in both sets
    assert LabelNoise().diagnose(_run(_readings([0.6] * 9, **groups | {"low_share": 0.04}), [(20, 0.3)])) == []


def test_examples_that_stand_apart_are_named():
    wild = _run([{"loss": 1.0}, {"loss": 9.0, "wild_examples": 2.0}], noted={"wild": (7, 8)})
    assert BadExamples().diagnose(wild)[0].example_ids == (7, 8)
    wild.add(Readings(step=15, values={"loss": 1.0}))
    assert BadExamples().diagnose(wild) == []
    odd = _run([{"loss": 1.0, "odd_share": 0.05, "examples_known": 900.0}], noted={"odd": (1, 2, 3)})
    assert BadExamples().diagnose(odd)[0].severity == "warning"


def test_labels_without_any_meaning():
    moving = {"update_ratio/a": 0.01, "weight_rms/a": 0.1, "label_entropy": math.log(4), "passes": 2.5}
    flat = _readings([1.39] * 15, **moving)
    assert ShuffledLabels().diagnose(_run(flat, [(30, 1.39), (45, 1.39), (60, 1.39)]))[0].severity == "serious"
    coming = [(30, 1.44), (45, 1.41), (60, 1.39)]
    assert ShuffledLabels().diagnose(_run(flat, coming)) == []  # it still comes down, slowly
    assert ShuffledLabels().diagnose(_run(flat, [(30, 1.39), (60, 1.2)])) == []
    assert ShuffledLabels().diagnose(_run(_readings([1.39] * 15, **moving | {"update_ratio/a": 1e-5}))) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_switch_is_a_step_that_stays(seed):
    noise = np.random.default_rng(seed).normal(0, 0.02, 40)
    calm = 0.5 + noise
    switched = calm + np.where(np.arange(40) >= 20, 0.6, 0.0)
    found = [DistributionSwitch().diagnose(_run(_readings(switched[:at]))) for at in range(1, 41)]
    assert [at for at, told in enumerate(found, 1) if told][0] == 23  # noqa: RUF015
    spiked = calm + np.where(np.arange(40) == 20, 2.0, 0.0)
    assert all(DistributionSwitch().diagnose(_run(_readings(spiked[:at]))) == [] for at in range(1, 41))
