"""The stepper when memory runs out: smaller pieces, the same batch, the same numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from danlu.core.batch import Batch
from danlu.core.errors import OutOfMemoryError
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
    seen = twice.active[0][1]
    assert isinstance(seen, Seen)
    for outputs in seen.outputs:
        assert not outputs.has_logits
        hidden = outputs.extra["hidden_states"]
        assert isinstance(hidden, tuple)
        assert len(hidden) == twice.model.config.num_hidden_layers + 1
        torch.testing.assert_close(hidden[-1], outputs.hidden)
    assert seen.by_other.logits.dtype == torch.int64
    assert len(twice.module.net({"input_ids": torch.ones(1, 3, dtype=torch.int64)}).extra) == 0
