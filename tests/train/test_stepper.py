"""The stepper when memory runs out: smaller pieces, the same batch, the same numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.errors import OutOfMemoryError, RequestError
from danlu.core.journal import read_journal
from danlu.core.outputs import Outputs
from danlu.core.technique import Extra, StepContext, Technique, TechniqueState
from tests.conformance.tiny import CONTEXT, farthest, finish, make_engine


class SmallMemory(Technique):
    """A device that holds `rows` rows at once from step `since` on, and says what torch says when there are more."""

    rows: int
    since: int = 0

    def loss_terms(
        self, outputs: Outputs, batch: Batch, ctx: StepContext, state: TechniqueState | None
    ) -> Mapping[str, Tensor]:
        if ctx.clock.step >= self.since and batch.num_rows > self.rows:
            raise torch.OutOfMemoryError("out of memory")
        return {}


def test_out_of_memory_in_mid_run_halves_the_micro_batch_and_nothing_else(tmp_path: Path) -> None:
    calm = finish(make_engine(tmp_path / "calm", [], micro_rows=8))
    short = finish(make_engine(tmp_path / "short", [SmallMemory(rows=2, since=3)], micro_rows=8))
    assert CONTEXT <= short.engine.stepper.micro_cost <= 2 * CONTEXT
    assert short.engine.clock.examples == calm.engine.clock.examples
    told = [record for record in read_journal(tmp_path / "short" / "journal.jsonl") if record["kind"] == "action"]
    assert [(record["step"], record["by"]) for record in told] == [(4, "stepper")]
    assert short.losses == pytest.approx(calm.losses, abs=1e-5)
    assert farthest(short.weights, calm.weights) < 1e-5


def test_a_row_that_does_not_fit_ends_the_run_in_words(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"not even one row.*data.context"):
        finish(make_engine(tmp_path, [SmallMemory(rows=0, since=2)], micro_rows=4))


class Twice(Technique):
    """Runs the batch again, and asks for hidden states; keeps what it saw."""

    def needs(self) -> Sequence[Extra]:
        return ("hidden_states",)

    def start(self, model: nn.Module) -> TechniqueState:
        return Seen()

    def loss_terms(
        self, outputs: Outputs, batch: Batch, ctx: StepContext, state: TechniqueState | None
    ) -> Mapping[str, Tensor]:
        again = outputs.again()
        assert isinstance(state, Seen)
        state.outputs = [outputs, again]
        state.by_other = outputs.again(lambda inputs: Outputs(logits=inputs["input_ids"]))
        return {"twice": again.loss}


class Seen(TechniqueState):
    outputs: list[Outputs]
    by_other: Outputs

    def state_dict(self) -> dict[str, object]:
        return {}


def test_a_batch_run_again_doubles_the_gradient_and_leaves_the_head_to_the_loss(tmp_path: Path) -> None:
    twice = make_engine(tmp_path / "twice", [Twice()], kind="sgd", lr=0.1, steps=3)
    done = finish(twice)
    plain = finish(make_engine(tmp_path / "plain", [], kind="sgd", lr=0.2, steps=3))
    assert farthest(done.weights, plain.weights) < 1e-6
    seen = next(state for technique, state in twice.active if isinstance(technique, Twice))
    assert isinstance(seen, Seen)
    for outputs in seen.outputs:
        assert not outputs.has_logits
        hidden = outputs.extra["hidden_states"]
        assert isinstance(hidden, tuple)
        assert len(hidden) == twice.model.config.num_hidden_layers + 1
        torch.testing.assert_close(hidden[-1], outputs.hidden)
    assert seen.by_other.logits.dtype == torch.int64
    assert len(twice.module.net({"input_ids": torch.ones(1, 3, dtype=torch.int64)}).extra) == 0


class Watching(Technique):
    """Reads the losses of rows before and after each step; keeps the second half of every batch."""

    needs_row_losses: ClassVar[bool] = True

    def start(self, model: nn.Module) -> TechniqueState:
        state = TechniqueState()
        state.before, state.after = [], []
        return state

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        kept = batch.select(torch.arange(batch.num_rows // 2, batch.num_rows))
        state.before.append(dict(zip(kept.example_ids_B.tolist(), ctx.losses(kept).tolist(), strict=True)))
        return kept

    def after_step(self, ctx: StepContext, state: TechniqueState | None) -> None:
        rows = ctx.row_losses()
        assert (rows.targets_B > 0).all()
        state.after.append(dict(zip(rows.example_ids_B.tolist(), rows.losses_B.tolist(), strict=True)))


def test_the_losses_of_rows_are_told_without_changing_the_step(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "watched", [Watching()], micro_rows=3, steps=3)
    finish(engine)
    state = next(state for technique, state in engine.active if isinstance(technique, Watching))
    assert [len(found) for found in state.after] == [4, 4, 4]
    for before, after in zip(state.before, state.after, strict=True):
        assert after == pytest.approx(before, rel=1e-4)
    with pytest.raises(RequestError, match="not known here"):
        engine.context().row_losses()
