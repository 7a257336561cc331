"""Diagnoses of what is wrong in the model or the machine: where they must speak, and where they must not."""

import math

import pytest

from danlu.core.action import SkipStep
from danlu.core.finding import Readings
from danlu.monitor.findings.base import History, blocks
from danlu.monitor.findings.dead_units import DeadUnits
from danlu.monitor.findings.exploding_gradients import ExplodingGradients
from danlu.monitor.findings.frozen_parameters import FrozenParameters
from danlu.monitor.findings.gradients_not_zeroed import GradientsNotZeroed
from danlu.monitor.findings.memory_bound import MemoryBound
from danlu.monitor.findings.nan_loss import NanLoss
from danlu.monitor.findings.saturated_activations import SaturatedActivations
from danlu.monitor.findings.slow_worker import SlowWorker
from danlu.monitor.findings.stalled import Stalled
from danlu.monitor.findings.vanishing_gradients import VanishingGradients


def _history(*readings, examples=()):
    """One reading after the other, five steps apart."""
    history = History()
    for number, values in enumerate(readings, start=1):
        history.add(Readings(step=5 * number, values=values, examples=dict(examples)))
    return history


def _grads(*norms):
    return {f"layer_grad_norm/layers.{at}": norm for at, norm in enumerate(norms)}


def test_a_single_bad_gradient_is_a_warning_that_names_layer_and_examples():
    history = _history({"loss": 2.0, "grad_norm": 1.0})
    history.add(
        Readings(step=8, values={"not_finite/gradient/model.layers.1.mlp": 8.0}, examples={"not_finite": (4, 7)})
    )
    (finding,) = NanLoss().diagnose(history)
    assert (finding.severity, finding.step, finding.evidence["step"], finding.example_ids) == (
        "warning",
        8,
        8.0,
        (4, 7),
    )
    assert "In layers.1: " in finding.sentence
    assert isinstance(finding.suggests[0], SkipStep)
    history.add(Readings(step=10, values={"loss": 2.0, "grad_norm": 1.0}))
    assert NanLoss().diagnose(history) == []


def test_bad_gradients_again_and_again_are_serious():
    history = _history({"loss": 2.0, "grad_norm": 1.0})
    for step in range(6, 11):
        history.add(Readings(step=step, values={"not_finite/output/layers.1": float(step)}))
    assert NanLoss().diagnose(history)[0].severity == "serious"


def test_a_gradient_that_is_no_number_is_told_without_a_trace():
    values = {"loss": 2.0, "grad_norm": math.nan, "grad_norm/not_finite_step": 9.0}
    (finding,) = NanLoss().diagnose(_history({"loss": 2.0, "grad_norm": 1.0}, values))
    assert (finding.severity, finding.evidence["step"]) == ("warning", 9.0)


def test_what_cannot_learn_is_named():
    fine = {"gradients_kept": 0.0, **_grads(1, 1, 1)}
    assert FrozenParameters().diagnose(_history(fine)) == []
    (finding,) = FrozenParameters().diagnose(_history(fine | {"forgotten/layers.1": 1.0}))
    assert finding.severity == "warning"
    assert finding.sentence.startswith("layers.1 cannot learn")
    trained = {"gradients_kept": 0.0, "layer_grad_norm/layers.0": 1.0, "frozen/layers.1": 1.0}
    assert FrozenParameters().diagnose(_history(trained))[0].severity == "warning"
    below = {"gradients_kept": 0.0, "layer_grad_norm/layers.1": 1.0, "frozen/layers.0": 1.0, "frozen/embed": 1.0}
    assert FrozenParameters().diagnose(_history(below))[0].severity == "note"
    mended = _history(fine | {"forgotten/layers.1": 1.0}, fine)
    assert FrozenParameters().diagnose(mended) == []


def test_gradients_that_stay_are_told():
    assert GradientsNotZeroed().diagnose(_history({"gradients_kept": 0.0})) == []
    assert GradientsNotZeroed().diagnose(_history({"gradients_kept": 0.5}))[0].severity == "serious"


@pytest.mark.parametrize(("cls", "name"), [(DeadUnits, "dead_units"), (SaturatedActivations, "saturated")])
def test_layers_whose_function_does_nothing(cls, name):
    fine, bad = {f"{name}/layers.0": 0.3, f"{name}/layers.1": 0.4}, {f"{name}/layers.0": 0.3, f"{name}/layers.1": 1.0}
    assert cls().diagnose(_history(fine, fine)) == []
    assert cls().diagnose(_history(fine, bad)) == []
    (finding,) = cls().diagnose(_history(bad, bad))
    assert "layers.1" in finding.sentence
    assert finding.evidence == {f"{name}/layers.1": 1.0}


def test_vanishing_gradients_by_the_ends_of_a_stack():
    assert VanishingGradients().diagnose(_history(_grads(0.1, 0.3, 1.0), _grads(0.1, 0.3, 1.0))) == []
    (finding,) = VanishingGradients().diagnose(_history(_grads(1e-6, 1e-3, 1.0), _grads(1e-6, 1e-3, 1.0)))
    assert "layers.0" in finding.sentence
    dead = _grads(0.0, 0.0, 1.0)
    assert VanishingGradients().diagnose(_history(dead, dead)) == []


def test_exploding_gradients_name_the_layer_that_grew():
    calm = [{"loss": 2.0, "grad_norm": 1.0 + 0.1 * at, **_grads(0.5, 0.5)} for at in range(6)]
    wild = [{"loss": 3.0, "grad_norm": 100.0, **_grads(0.6, 90.0)} for _ in range(3)]
    assert ExplodingGradients().diagnose(_history(*calm, *calm)) == []
    assert ExplodingGradients().diagnose(_history(*calm, *wild[:2])) == []
    readings = [*calm, wild[0], wild[1], wild[2] | _grads(0.6, 900.0)]
    assert "layers.1" in ExplodingGradients().diagnose(_history(*readings))[0].sentence
    falling = [entry | {"loss": 1.0} for entry in wild]
    assert ExplodingGradients().diagnose(_history(*calm, *falling)) == []


def test_memory():
    assert MemoryBound().diagnose(_history({"memory_share": 0.5, "micro_batch_tokens": 64.0})) == []
    assert MemoryBound().diagnose(_history({"memory_share": 0.97}))[0].severity == "note"
    (finding,) = MemoryBound().diagnose(_history({"micro_batch_tokens": 64.0}, {"micro_batch_tokens": 32.0}))
    assert (finding.severity, finding.evidence["before"]) == ("warning", 64.0)


def test_a_slow_worker_is_late_now_and_then():
    late = {"data_starved_share": 0.4, "data_wait_seconds": 0.05, "data_wait_seconds/max": 0.25}
    assert SlowWorker().diagnose(_history(*[late] * 10))[0].name == "slow_worker"
    assert SlowWorker().diagnose(_history(*[late | {"data_wait_seconds/max": 0.06}] * 10)) == []
    assert SlowWorker().diagnose(_history(*[late | {"data_starved_share": 0.01}] * 10)) == []


def test_a_halt_is_told():
    usual = {"step_seconds": 0.1, "step_seconds/max": 0.2}
    assert Stalled().diagnose(_history(*[usual] * 8)) == []
    assert Stalled().diagnose(_history(*[usual] * 8, usual | {"step_seconds/max": 90.0}))[0].severity == "warning"


def test_numbered_layers_of_one_kind_belong_together():
    names = ["embed", "layers.1", "layers.0", "decoder.block.0", "layers.10", "head"]
    assert blocks(names) == [["layers.0", "layers.1", "layers.10"], ["decoder.block.0"]]
