"""The runner of probes, and every probe's numbers."""

import contextlib
import math

import pytest
import torch

from danlu.monitor.base import Probe, default_probes
from danlu.monitor.layers import layer_of, sampled
from danlu.monitor.probes.data_wait import DataWait
from danlu.monitor.probes.grad_norm import GradNorm
from danlu.monitor.probes.learning_rate import LearningRate
from danlu.monitor.probes.loss import Loss
from danlu.monitor.probes.memory import Memory
from danlu.monitor.probes.mfu import Mfu
from danlu.monitor.probes.throughput import Throughput
from danlu.monitor.probes.update_ratio import UpdateRatio


def test_all_probes_are_found_by_path():
    assert {probe.name() for probe in default_probes()} >= {
        "loss", "grad_norm", "update_ratio", "learning_rate", "throughput", "mfu", "data_wait", "memory",
    }  # fmt: skip


def test_loss_and_norm_are_means_over_the_steps_since_the_last_line(make_steps):
    steps = make_steps(Loss(), GradNorm())
    losses = [1.0, 2.0, 6.0]
    for loss in losses[:-1]:
        assert steps.take(loss=loss) is None
    readings = steps.take(loss=losses[-1], log=True)
    assert readings.step == 3
    assert readings.values["loss"] == pytest.approx(3.0)
    assert readings.values["grad_norm/max"] >= readings.values["grad_norm"] > 0
    assert steps.take(loss=5.0, log=True).values["loss"] == 5.0


def test_names_the_first_step_that_is_not_finite(make_steps):
    steps = make_steps(Loss())
    for loss in (1.0, math.inf, math.nan):
        steps.take(loss=loss)
    values = steps.take(loss=1.0, log=True).values
    assert math.isnan(values["loss"])
    assert values["loss/not_finite_step"] == 2


def test_rates(make_steps):
    steps = make_steps(Throughput(), DataWait(), Mfu(), LearningRate(), gemm_rate=1e6, flops_per_token=1000.0)
    steps.take(seconds=0.5)
    values = steps.take(seconds=1.5, log=True).values
    assert values["tokens_per_second"] == pytest.approx(80)
    assert values["examples_per_second"] == pytest.approx(8)
    assert values["data_wait_seconds"] == pytest.approx(0.1)
    assert values["data_wait_share"] == pytest.approx(0.1)
    assert values["mfu"] == pytest.approx(80 * 1000 / 1e6)
    assert values["learning_rate"] == 0.1


def test_mfu_is_not_read_without_a_rate(make_steps):
    assert make_steps(Mfu()).take(log=True).values == {}


def test_memory_is_this_process_s_peak(make_steps):
    first = make_steps(Memory()).take(log=True).values["memory_bytes"]
    assert 1e7 < first < 1e12
    held = torch.ones(64 << 20 >> 2)
    assert make_steps(Memory()).take(log=True).values["memory_bytes"] >= first
    del held


def test_update_ratio_is_exact_on_small_layers(make_steps):
    steps = make_steps(UpdateRatio(every=2))
    before = {name: parameter.detach().clone() for name, parameter in steps.model.named_parameters()}
    values = steps.take(log=True).values
    assert set(values) == {"update_ratio/layers.0", "update_ratio/layers.1", "update_ratio/head"}
    moved = [(p.detach() - before[n]).flatten() for n, p in steps.model.named_parameters() if "layers.1" in n]
    size = [before[n].flatten() for n in before if "layers.1" in n]
    expected = torch.cat(moved).norm() / torch.cat(size).norm()
    assert values["update_ratio/layers.1"] == pytest.approx(expected.item(), rel=1e-5)
    assert [bool(steps.take(log=True).values) for _ in range(3)] == [True, False, True]


def test_a_sample_visits_every_column():
    parameter = torch.nn.Parameter(torch.arange(64 * 64.0).view(64, 64))
    entries = sampled(parameter, 300)
    assert 200 < len(entries) <= 300
    assert len(set((entries % 64).tolist())) == 64


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.down_proj.weight", "layers.3"),
        ("transformer.h.0.attn.c_proj.bias", "h.0"),
        ("encoder.block.2.layer.0.k.weight", "encoder.block.2"),
        ("model.embed_tokens.weight", "embed_tokens"),
        ("lm_head.weight", "lm_head"),
    ],
)
def test_layers_are_told_by_names(name, layer):
    assert layer_of(name) == layer


class _Hooked(Probe):
    """Counts forward calls by a hook that it takes off again."""

    every: int = 2

    @contextlib.contextmanager
    def around(self, facts):
        calls = []
        handle = facts.model.register_forward_hook(lambda *_: calls.append(1))
        try:
            yield calls
        finally:
            handle.remove()

    def read(self, ctx, kept):
        return {"calls": len(kept)}


def test_hooks_are_there_on_due_steps_alone(make_steps):
    steps = make_steps(_Hooked())
    assert [steps.take(log=True).values for _ in range(4)] == [{"calls": 1.0}, {"calls": 1.0}, {}, {"calls": 1.0}]
    assert not steps.model._forward_hooks
    steps.probes.before_step(steps.clock.tick(examples=0, tokens=0, epochs=0, seconds=0))
    assert steps.model._forward_hooks
    steps.probes.close()
    assert not steps.model._forward_hooks


def test_no_tensor_is_read_before_a_line_is_due(make_steps, monkeypatch):
    """On a device, `.item()` or `.tolist()` would wait for it: none may happen between two lines."""
    steps = make_steps(*default_probes())

    def refuse(*_):
        raise AssertionError("a tensor was turned into a number")

    for name in ("item", "tolist", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    probes = steps.probes
    for _ in range(3):
        probes.before_step(steps.clock)
        steps.clock = steps.clock.tick(examples=8, tokens=80, epochs=0.0, seconds=0.0)
        terms, norm = {"loss": torch.ones(())}, torch.ones(())
        probes.after_step(
            steps.clock, optimizer=steps.optimizer, terms=terms, grad_norm=norm, num_tokens=80, num_examples=8,
            step_seconds=0.1, data_wait_seconds=0.0, row_losses=lambda: None, log=False,
        )  # fmt: skip


def test_what_no_line_holds_yet_survives_a_checkpoint(make_steps):
    straight, first, second = (make_steps(Loss(), GradNorm()) for _ in range(3))
    for loss in (1.0, 2.0):
        straight.take(loss=loss)
        first.take(loss=loss)
    second.probes.load_state_dict(first.probes.state_dict())
    second.clock = first.clock
    for steps in (straight, second):
        steps.model.load_state_dict(straight.model.state_dict())
    a, b = straight.take(loss=6.0, log=True), second.take(loss=6.0, log=True)
    assert a.values["loss"] == b.values["loss"] == 3.0
