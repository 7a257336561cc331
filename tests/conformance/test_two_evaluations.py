"""Two processes that share an evaluation find the metrics that one finds alone, whatever the task."""

import json
from pathlib import Path

import pytest

from .pair import run_pair
from .test_tasks import all_cases

SCRIPT = Path(__file__).with_name("two_evaluations.py")


def test_two_processes_find_the_metrics_of_one(tmp_path: Path) -> None:
    names = all_cases()
    run_pair(SCRIPT, json.dumps(names), str(tmp_path))
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {"-".join(name) for name in names}
    for name, (together, alone) in found.items():
        assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-5, abs=1e-5, nan_ok=True), name
        assert together["tables"].keys() == alone["tables"].keys(), name
