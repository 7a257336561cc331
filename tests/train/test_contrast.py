"""A loss that compares rows is the same in one piece, in micro-batches, and on two processes."""

from pathlib import Path
from typing import Any

import pytest

from tests.dist.ranks import run_ranks

from . import contrast_ranks, preference_ranks

HERE = Path(__file__).parent
ROWS = contrast_ranks.ROWS


@pytest.mark.parametrize("script", [contrast_ranks, preference_ranks], ids=["search", "kto"])
@pytest.mark.parametrize(("strategy", "processes", "rows"), [("ddp", 1, 2), ("ddp", 2, ROWS), ("fsdp", 2, 2)])
def test_micro_batches_and_processes_change_nothing(script: Any, strategy: str, processes: int, rows: int) -> None:
    loss, weights = script.step("ddp", ROWS)
    name = HERE / f"{script.__name__.rpartition('.')[2]}.py"
    found = script.step(strategy, rows) if processes == 1 else run_ranks(name, [strategy, rows], processes)
    assert found[0] == pytest.approx(loss, rel=1e-5)
    assert found[1] == pytest.approx(weights, abs=1e-5)
