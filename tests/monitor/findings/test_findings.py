"""Each diagnosis on series where it must speak, and on healthy ones where it must not."""

import math
from pathlib import Path

import numpy as np
import pytest

from danlu.core.action import Stop
from danlu.core.finding import Evaluation, Readings
from danlu.monitor.diagnose import Diagnoser
from danlu.monitor.findings.base import History, all_diagnoses, noise_of
from danlu.monitor.findings.data_bound import DataBound
from danlu.monitor.findings.divergence import Divergence
from danlu.monitor.findings.loss_spike import LossSpike
from danlu.monitor.findings.nan_loss import NanLoss
from danlu.monitor.findings.overfitting import Overfitting
from danlu.monitor.findings.plateau import Plateau


def _descent(seed, length=200, noise=0.03, end=2.0):
    """A loss as runs have it: 10.4 falling as a power law, with noise; the steps are ten apart."""
    drawn = np.random.default_rng(seed).normal(0, noise, length)
    return end + (10.4 - end) * (1 + np.arange(length) / 4) ** -0.6 + drawn


def _rounds(diagnosis, losses, rates=None, evaluations=()):
    """The findings of each reading, as the run goes on."""
    history, told = History(), []
    scores = dict(evaluations)
    for number, loss in enumerate(losses):
        step = 10 * (number + 1)
        values = {"loss": float(loss)} | ({} if rates is None else {"learning_rate": float(rates[number])})
        history.add(Readings(step=step, values=values))
        if step in scores:
            metrics = {"loss": scores[step]}
            history.add_evaluation(Evaluation(step=step, metrics=metrics, judged="loss", better="lower"))
        told += diagnosis.diagnose(history)
    return told


def test_every_finding_has_its_page():
    pages = Path(__file__).parents[3] / "docs" / "findings"
    assert sorted(page.stem for page in pages.glob("*.md")) == sorted(cls.name() for cls in all_diagnoses())


def test_all_findings_are_found_by_path():
    names = {diagnosis.name() for diagnosis in all_diagnoses()}
    assert names >= {"nan_loss", "divergence", "loss_spike", "plateau", "overfitting", "data_bound"}


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.15])
@pytest.mark.parametrize("length", [30, 200])
def test_healthy_runs_raise_no_alarm(noise, length):
    rates = np.linspace(1, 0.1, length)
    for seed in range(25):
        losses = _descent(seed, length, noise)
        measured = _descent(seed + 500, length, 0.01) + 0.05  # the same examples each time: little noise
        valid = {10 * at: float(measured[at - 1]) for at in range(length // 10, length + 1, length // 10)}
        for diagnosis in all_diagnoses():
            assert _rounds(diagnosis, losses, rates, valid.items()) == [], (diagnosis.name(), seed)


def test_heavy_tails_are_no_spikes():
    for seed in range(20):
        losses = _descent(seed) + np.abs(np.random.default_rng(100 + seed).standard_t(4, 200)) * 0.05
        assert _rounds(LossSpike(), losses) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_names_its_step_and_asks_to_stop(bad):
    history = History()
    history.add(Readings(step=10, values={"loss": 3.0}))
    history.add(Readings(step=20, values={"loss": bad, "loss/not_finite_step": 14.0, "learning_rate": 0.1}))
    (finding,) = NanLoss().diagnose(history)
    assert (finding.name, finding.severity, finding.evidence["step"]) == ("nan_loss", "serious", 14.0)
    assert "step 14" in finding.sentence
    assert finding.suggests == (Stop(because="the loss is not finite since step 14", failed=True),)


def test_a_spike_is_told_at_its_step():
    losses = _descent(0)
    losses[120] *= 2.5
    (finding,) = _rounds(LossSpike(), losses)
    assert finding.step == 1210
    assert finding.evidence["loss"] == pytest.approx(losses[120])
    assert _rounds(Divergence(), losses) == []


@pytest.mark.parametrize("rise", ["slow", "jump"])
def test_divergence_within_twenty_readings(rise):
    losses = _descent(1)
    losses[100:] = losses[99] + (3.0 if rise == "jump" else np.minimum(np.arange(100) * 0.3, 5.0))
    found = _rounds(Divergence(), losses)
    assert 1010 <= found[0].step <= 1200
    assert found[0].evidence["best"] < found[0].evidence["loss"]


def test_divergence_from_the_first_step_on():
    assert _rounds(Divergence(), 10.4 + np.arange(40) * 0.2)[0].step <= 200


def test_plateau_at_a_high_rate_alone():
    losses = np.concatenate([_descent(2, 60), np.full(200, 4.0)]) + np.random.default_rng(0).normal(0, 0.02, 260)
    assert _rounds(Plateau(), losses, np.full(260, 1e-3))[0].severity == "note"
    assert _rounds(Plateau(), losses, np.linspace(1e-3, 0, 260) ** 2) == []


def test_overfitting():
    losses = _descent(3)
    good = {400: 4.0, 800: 3.5, 1200: 3.4, 1600: 3.35, 2000: 3.34}
    bad = {400: 4.0, 800: 3.5, 1200: 3.6, 1600: 3.8, 2000: 4.1}
    assert _rounds(Overfitting(), losses, evaluations=good.items()) == []
    found = _rounds(Overfitting(), losses, evaluations=bad.items())[0]
    assert (found.step, found.evidence["best_step"]) == (2000, 800)
    assert found.suggests[0].restore_best
    flat = np.full(200, 3.0)
    assert _rounds(Overfitting(), flat, evaluations=bad.items()) == []


@pytest.mark.parametrize(("accuracy", "severity"), [(0.93, "note"), (0.88, "warning")])
def test_a_loss_that_rises_alone_is_no_alarm(accuracy, severity):
    history = History()
    for number, (loss, share) in enumerate([(0.2, 0.93), (0.3, accuracy), (0.4, accuracy), (0.5, accuracy)], start=1):
        history.add(Readings(step=10 * number, values={"loss": 0.5**number}))
        metrics = {"loss": loss, "accuracy": share}
        history.add_evaluation(Evaluation(step=10 * number, metrics=metrics, judged="accuracy", better="higher"))
    assert [finding.severity for finding in Overfitting().diagnose(history)] == [severity]


def test_data_bound():
    history = History()
    for number in range(5):
        assert DataBound().diagnose(history) == []
        history.add(Readings(step=number, values={"data_starved_share": 0.4, "data_wait_seconds": 0.2}))
    (finding,) = DataBound().diagnose(history)
    assert finding.sentence.startswith("40%")
    for number, told in ((5, 1), (6, 0)):
        history.add(Readings(step=number, values={"data_starved_share": 0.1, "data_wait_seconds": 0.2}))
        assert len(DataBound().diagnose(history)) == told
    assert DataBound().diagnose(history) == []  # the machine was busy with other programs


def test_a_finding_is_told_once_until_it_was_gone_for_a_while():
    diagnoser, told = Diagnoser([NanLoss()], quiet=3), []
    for step, loss in enumerate([1, math.nan, math.nan, 1, math.nan, 1, 1, 1, 1, math.nan]):
        told += [finding.step for finding in diagnoser.hear(Readings(step=step, values={"loss": loss}))]
    assert told == [1, 9]


def test_a_replayed_journal_tells_the_same():
    losses = [3.0] * 12 + [9.0] + [3.0] * 5
    records = [{"kind": "start", "step": 0}]
    records += [{"kind": "reading", "step": at, "values": {"loss": loss}} for at, loss in enumerate(losses)]
    records += [
        {"kind": "evaluation", "step": 18, "metrics": {"loss": "nan"}, "judged": "loss", "better": "lower"},
    ]
    live, again = Diagnoser(), Diagnoser()
    told = [f for at, loss in enumerate(losses) for f in live.hear(Readings(step=at, values={"loss": loss}))]
    assert again.replay(records) == told
    assert [finding.name for finding in told] == ["loss_spike"]
    assert math.isnan(again.history.evaluations[0].metrics["loss"])


def test_noise_leaves_out_trend_and_jumps():
    values = np.linspace(10, 0, 400) + np.random.default_rng(0).normal(0, 0.1, 400)
    values[200] = 50
    assert noise_of(list(values)) == pytest.approx(0.1, rel=0.2)
