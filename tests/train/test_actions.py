"""Every action at a step boundary of the real engine: what it changes, what it leaves, that a resumed run agrees."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from danlu.core.action import (
    Action,
    Branch,
    HalveMicroBatch,
    QuarantineData,
    Reinitialise,
    Rollback,
    SetDial,
    SkipStep,
    Stop,
)
from danlu.core.journal import Record, read_journal, standing
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.techniques.regularise.ema import Ema
from danlu.train.guard import only_if
from tests.conformance.tiny import Done, farthest, finish, make_engine, whole


class Scripted(Technique):
    """Asks for actions before given steps, and spoils the gradient of others."""

    script: Mapping[int, tuple[Action, ...]] = {}
    nan_at: tuple[int, ...] = ()

    def before_step(self, ctx: StepContext, state: TechniqueState | None) -> Sequence[Action]:
        return self.script.get(ctx.clock.step, ())

    def on_grads(self, parameters: Sequence[nn.Parameter], ctx: StepContext, state: TechniqueState | None) -> None:
        if ctx.clock.step + 1 in self.nan_at:
            parameters[0].grad.view(-1)[0] = float("nan")


def records(done: Done, kind: str) -> list[Record]:
    path = done.engine.plan.folder / "journal.jsonl"
    return [record for record in standing(read_journal(path)) if record["kind"] == kind]


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, kind: str) -> None:
    ema = Ema(decay=0.9)
    engine = make_engine(tmp_path, [Scripted(nan_at=(5,)), ema], kind=kind, steps=5)
    before: dict[str, object] = {}
    engine.journal.subscribe(lambda record: before.update(whole(engine)) if record["step"] == 4 else None)
    done = finish(engine)
    assert farthest(done.weights, before) == 0.0  # type: ignore[arg-type]
    assert next(state for technique, state in engine.active if technique == ema).num_updates == 4
    (skip,) = [record for record in records(done, "action") if record["by"] == "skip_step"]
    assert (skip["step"], skip["applied"], len(skip["example_ids"])) == (5, True, 8)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_left_out_on_the_device_leaves_every_bit(make: type[torch.optim.Optimizer], fused: bool) -> None:
    """Steps 0 and 3 of four are left out, their gradients no numbers; that is the run of the two others."""

    def trained(steps: Sequence[int], left_out: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(5, 3))
        optimizer = make([weight], lr=0.1, fused=fused, **({"momentum": 0.9} if make is torch.optim.SGD else {}))
        for step in steps:
            torch.manual_seed(step)
            weight.grad = torch.randn(5, 3) * (torch.nan if step in left_out else 1.0)
            with only_if(torch.tensor(step not in left_out), optimizer):
                optimizer.step()
        return weight.detach(), optimizer.state_dict()["state"][0]

    (weight, state), (expected, expected_state) = trained(range(4), [0, 3]), trained([1, 2], [])
    torch.testing.assert_close(weight, expected, rtol=0, atol=0)
    for name, value in expected_state.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


SCRIPT: dict[int, tuple[Action, ...]] = {
    2: (SetDial(dial="learning_rate", kind="scale", number=0.5, over=3),),
    3: (QuarantineData(example_ids=(1, 2, 3)), SkipStep()),
    5: (Rollback(), SetDial(dial="grad_clip", number=0.5)),
    7: (Branch(tries=((SetDial(dial="learning_rate", kind="scale", number=0.1),),), steps=2, decay_steps=1),),
    11: (HalveMicroBatch(), QuarantineData(example_ids=(2,), back=True)),
    13: (Reinitialise(modules=("model.layers.1",)),),
}


@pytest.mark.parametrize("at", [4, 12])
def test_resumed_between_actions_it_does_the_same(tmp_path: Path, at: int) -> None:
    script = Scripted(script=SCRIPT, nan_at=(10,))
    straight = finish(make_engine(tmp_path / "straight", [script], steps=16))
    resumed_in = tmp_path / "resumed"
    for path in (straight.engine.plan.folder / "checkpoints").glob("step-*"):
        if int(path.name.rpartition("-")[2]) <= at:
            shutil.copytree(path, resumed_in / "checkpoints" / path.name)
    engine = make_engine(resumed_in, [script], steps=16)
    engine.restore(engine.checkpoints.newest())
    assert engine.clock.step == at
    resumed = finish(engine)
    assert farthest(resumed.weights, straight.weights) == 0.0
    assert engine.dials.state_dict() == straight.engine.dials.state_dict()
    assert engine.quarantined == straight.engine.quarantined == frozenset({1, 3})
    assert resumed.losses == straight.losses[-len(resumed.losses) :]
    told = [record["applied"] for record in records(straight, "action")]
    assert told == [True] * len(told)
    assert len(told) == 10


def test_going_back_brings_the_last_good_weights_and_new_data(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, [Scripted(script={5: (Rollback(), Stop(because="enough"))})], steps=9)
    kept: dict[int, dict[str, torch.Tensor]] = {0: whole(engine)}
    engine.journal.subscribe(lambda record: kept.setdefault(int(record["step"]), whole(engine)))
    done = finish(engine)
    (action, _) = records(done, "action")
    assert action["back_to"] < 5
    assert farthest(done.weights, kept[action["back_to"]]) == 0.0
    assert (engine.clock.step, engine.clock.examples) == (5, 40)
    assert engine.loader.sampler.epochs(engine.position) == pytest.approx(40 / 48)


def test_a_fork_that_is_worse_leaves_no_trace(tmp_path: Path) -> None:
    """A rate of nothing cannot be better; the run that tried it is the run that did not."""
    worse = Branch(tries=((SetDial(dial="learning_rate", kind="scale", number=0.0),),), steps=2, decay_steps=2)
    tried = finish(make_engine(tmp_path / "tried", [Scripted(script={2: (worse,)})], steps=8))
    plain = finish(make_engine(tmp_path / "plain", [], steps=8))
    assert farthest(tried.weights, plain.weights) == 0.0
    (verdict,) = records(tried, "verdict")
    assert (verdict["kept"], verdict["choice"], verdict["extra_steps"]) == (False, None, 6)


def test_a_fork_that_is_better_is_gone_on_with(tmp_path: Path) -> None:
    stuck = SetDial(dial="learning_rate", kind="scale", number=1e-6)
    better = (SetDial(dial="learning_rate", kind="scale", number=1.0),)
    fork = Branch(tries=(better,), steps=3, decay_steps=1, gain=0.0)
    script = {0: (stuck,), 2: (fork,)}
    done = finish(make_engine(tmp_path, [Scripted(script=script)], steps=8))
    (verdict,) = records(done, "verdict")
    assert (verdict["kept"], verdict["choice"]) == (True, 0)
    assert done.engine.dials.value("learning_rate", done.engine.clock.__class__(budget=done.engine.clock.budget)) > 1e-4


def test_what_cannot_be_done_is_said_and_not_done(tmp_path: Path) -> None:
    script = {1: (SetDial(dial="no_such_dial", number=1.0), Reinitialise(modules=("nowhere",)))}
    done = finish(make_engine(tmp_path, [Scripted(script=script)], steps=2))
    told = records(done, "action")
    assert [record["applied"] for record in told] == [False, False]
    assert "no dial no_such_dial" in str(told[0]["refused"])
    json.dumps(told)
