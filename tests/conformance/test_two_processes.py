"""Techniques give the same run on one process and on two, and a run that two began goes on with one."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from danlu.core import discover
from danlu.core.technique import Technique
from danlu.train.engine import Engine

from .pair import run_pair
from .tiny import farthest, finish, make_engine

SCRIPT = Path(__file__).with_name("two_processes.py")
NAMES = sorted(discover.paths("danlu.techniques"))


def _together() -> list[list[str]]:
    """All techniques that draw nothing inside the model, in as few runs as their conflicts allow."""
    runs: list[list[str]] = []
    for name in NAMES:
        cls = discover.find("danlu.techniques", name, Technique)
        if cls.random_in_forward:
            continue
        for run in runs:
            if not any(other in cls.conflicts for other in run):
                run.append(name)
                break
        else:
            runs.append([name])
    return runs


RUNS = [(names, strategy) for names in _together() for strategy in ("ddp", "fsdp")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of all runs, done by one pair of processes."""
    root = tmp_path_factory.mktemp("two")
    places = [root / str(number) for number in range(len(RUNS))]
    request = json.dumps([(*run, str(place)) for run, place in zip(RUNS, places, strict=True)])
    run_pair(SCRIPT, request)
    return places


@pytest.mark.parametrize("number", range(len(RUNS)), ids=["+".join((*names, strategy)) for names, strategy in RUNS])
def test_two_processes_are_one(number: int, folders: list[Path], tmp_path: Path) -> None:
    def engine_at(folder: Path) -> Engine:
        classes = [discover.find("danlu.techniques", name, Technique) for name in RUNS[number][0]]
        return make_engine(folder, [cls(**cls.example) for cls in classes], kind="sgd", lr=0.1)

    two = torch.load(folders[number] / "done.pt")
    one = finish(engine_at(tmp_path / "one"))
    assert two["losses"] == pytest.approx(one.losses, abs=1e-4)
    assert farthest(two["weights"], one.weights) < 1e-4
    assert farthest(two["exported"], one.exported) < 1e-4
    for path in (folders[number] / "checkpoints").glob("step-*"):
        if int(path.name.rpartition("-")[2]) <= 4:
            shutil.copytree(path, tmp_path / "on" / "checkpoints" / path.name)
    engine = engine_at(tmp_path / "on")
    engine.restore(engine.checkpoints.newest())
    went_on = finish(engine)
    assert farthest(went_on.weights, two["weights"]) < 1e-4
    assert farthest(went_on.exported, two["exported"]) < 1e-4
