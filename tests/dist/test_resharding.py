"""A checkpoint of any strategy and number of processes goes on under any other."""

from pathlib import Path

import pytest
from ranks import TOY, run_ranks

SIXTH_LOSS = 2.58722  # of one process that was never interrupted


def test_any_goes_on_under_any_other(tmp_path: Path) -> None:
    """Weights, the optimiser's state and other trees come back in the layout that they have now."""
    fsdp, ddp = str(tmp_path / "fsdp2"), str(tmp_path / "ddp1")
    (first,) = run_ranks(TOY, [{"strategy": "fsdp", "steps": 4, "folder": fsdp}], 2)
    on_one = run_ranks(TOY, [_resume("ddp", fsdp), {"strategy": "ddp", "steps": 4, "folder": ddp}], 1)
    on_two = run_ranks(TOY, [_resume("fsdp", ddp), _resume("ddp", fsdp), _resume("fsdp", fsdp)], 2)
    for resumed in [on_one[0], *on_two]:
        assert resumed["losses"] == pytest.approx([first["losses"][-1], SIXTH_LOSS], abs=1e-5)
        assert resumed["notes"] == []


def _resume(strategy: str, folder: str) -> dict:
    return {"strategy": strategy, "steps": 5, "folder": folder, "resume": True}
