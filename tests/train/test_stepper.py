"""The stepper when memory runs out: smaller pieces, the same batch, the same numbers."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.errors import OutOfMemoryError
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext, Technique, TechniqueState
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
