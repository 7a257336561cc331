"""The book of examples: what it counts, what it names, and that a checkpoint keeps it."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from danlu.core.batch import Batch
from danlu.maths.two_groups import two_groups
from danlu.monitor.base import Facts
from danlu.monitor.probes.examples import Examples


@dataclasses.dataclass
class _Ctx:
    facts: Facts
    batch: Batch
    losses_B: torch.Tensor


def _probe():
    probe = Examples()
    facts = Facts(model=nn.Identity())
    facts.memory["examples"] = probe.start()
    return probe, facts


def _visit(probe, facts, losses, labels=None, values=None):
    """All examples once, in batches of 50."""
    told = []
    for at in range(0, len(losses), 50):
        ids_B = torch.arange(at, min(at + 50, len(losses)))
        ones_B = torch.ones(len(ids_B), dtype=torch.int64)
        pixels = torch.ones(len(ids_B), 4) if values is None else values[ids_B]
        batch = Batch(
            inputs={"pixel_values": pixels}, labels={} if labels is None else {"classes": labels[ids_B]},
            example_ids_B=ids_B, targets_B=ones_B, tokens_B=ones_B,
        )  # fmt: skip
        probe.read(_Ctx(facts, batch, losses[ids_B]), None)
        told.append(probe.conclude(facts))
    return {k: v for values, _ in told for k, v in values.items()}, {k: v for _, ids in told for k, v in ids.items()}


def test_two_groups_part_where_they_are_apart():
    values = np.concatenate([np.full(20, 0.1), np.full(80, 0.9)]) + np.random.default_rng(0).normal(0, 0.02, 100)
    groups = two_groups(values)
    assert groups.low_share == pytest.approx(0.2)
    assert (groups.low_mean, groups.high_mean) == pytest.approx((0.1, 0.9), abs=0.02)
    assert two_groups(np.ones(5)).low_share == 0


def test_wrong_labels_gather_in_the_low_group():
    probe, facts = _probe()
    losses = torch.full((500,), 0.2)
    losses[:100] = 2.3
    for _ in range(4):
        values, ids = _visit(probe, facts, losses, torch.arange(500) % 5)
    assert values["low_share"] == pytest.approx(0.2)
    assert values["low_p"] == pytest.approx(np.exp(-2.3), rel=1e-4)
    assert sorted(ids["low_p"]) == list(range(100))
    assert (values["class_ratio"], values["num_classes"]) == (1.0, 5.0)
    assert values["label_entropy"] == pytest.approx(np.log(5))


def test_inputs_that_are_far_too_large_are_named_at_once():
    probe, facts = _probe()
    pixels = torch.rand(300, 4) + 0.5
    _visit(probe, facts, torch.ones(300), values=pixels)
    pixels[40:43] *= 1000
    _, ids = _visit(probe, facts, torch.ones(300), values=pixels)
    assert ids["wild"] == (40, 41, 42)


def test_a_few_that_stand_apart_and_are_hard_are_odd():
    probe, facts = _probe()
    torch.manual_seed(0)
    pixels, losses = torch.rand(400, 16) + 0.5, torch.rand(400) * 0.2
    pixels[:20] *= 3
    losses[:20] += 2
    for _ in range(3):
        values, ids = _visit(probe, facts, losses, values=pixels)
    assert values["odd_share"] == pytest.approx(0.05)
    assert sorted(ids["odd"]) == list(range(20))


def test_a_resumed_book_is_the_same():
    (probe, facts), (_, other) = _probe(), _probe()
    losses, labels = torch.rand(200), torch.arange(200) % 3
    _visit(probe, facts, losses, labels)
    other.memory["examples"].load_state_dict(facts.memory["examples"].state_dict())
    straight, resumed = (_visit(probe, each, losses, labels) for each in (facts, other))
    assert straight == resumed
