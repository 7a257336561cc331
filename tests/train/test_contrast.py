"""A loss that compares rows is the same in one piece, in micro-batches, and on two processes."""

from pathlib import Path

import pytest

from tests.dist.ranks import run_ranks

from .contrast_ranks import ROWS, step

SCRIPT = Path(__file__).with_name("contrast_ranks.py")


@pytest.mark.parametrize(("strategy", "processes", "rows"), [("ddp", 1, 2), ("ddp", 2, ROWS), ("fsdp", 2, 2)])
def test_micro_batches_and_processes_change_nothing(strategy: str, processes: int, rows: int) -> None:
    loss, weights = step("ddp", ROWS)
    found = step(strategy, rows) if processes == 1 else run_ranks(SCRIPT, [strategy, rows], processes)
    assert found[0] == pytest.approx(loss, rel=1e-5)
    assert found[1] == pytest.approx(weights, abs=1e-5)
