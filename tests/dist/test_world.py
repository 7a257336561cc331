"""World: alone it is silent; a wrong environment is said in words."""

import os
from pathlib import Path

import pytest
import torch
from tests.dist.ranks import run_ranks

from danlu.core.errors import RequestError
from danlu.dist.config import ParallelConfig
from danlu.dist.world import World, start_world, stop_world

TALK = """
import json, sys, threading, torch
from danlu.dist.world import start_world, stop_world
world = start_world()
apart = world.apart()
told = []
thread = threading.Thread(target=lambda: told.extend(apart.gather_objects(world.rank * 10) for _ in range(50)))
thread.start()
for _ in range(50):
    total = world.sum_across(torch.tensor([1, world.rank]))
thread.join()
said = {
    "sum": total.tolist(),
    "apart": told[-1],
    "any": [world.any_across(world.rank == 1), world.any_across(False)],
    "range": [world.min_across(world.rank), world.max_across(world.rank)],
    "number": world.broadcast_number(world.rank + 0.5),
    "object": world.broadcast_object({"rank": world.rank}),
    "all": world.gather_objects(world.rank),
    "backend": world.backend,
}
answers = world.gather_objects(said)
world.barrier()
stop_world()
print(json.dumps(answers))
"""


def test_two_processes_talk(tmp_path: Path) -> None:
    """Both hear the same, also on a second line in another thread at the same time."""
    script = tmp_path / "talk.py"
    script.write_text(TALK)
    expected = {"sum": [2, 1], "apart": [0, 10], "any": [True, False], "range": [0.0, 1.0], "number": 0.5}
    expected |= {"object": {"rank": 0}, "all": [0, 1], "backend": "gloo"}
    assert run_ranks(script, {}, 2) == [expected, expected]


def test_alone() -> None:
    world = World()
    tensor = torch.ones(2)
    assert world.sum_across(tensor) is tensor
    assert world.is_first
    assert world.apart() is world
    assert (world.any_across(True), world.max_across(3), world.min_across(3), world.broadcast_number(7)) == (1, 3, 3, 7)
    assert world.gather_objects("a") == ["a"]
    world.barrier()
    stop_world()


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    world = start_world(device="cpu")
    assert (world.rank, world.size, world.backend, world.device.type) == (0, 1, "none", "cpu")


def test_incomplete_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(RequestError, match="MASTER_ADDR"):
        start_world(device="cpu")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(RequestError, match="WORLD_SIZE is 'two'"):
        start_world(device="cpu")
    assert "RANK" in os.environ


@pytest.mark.skipif(torch.cuda.device_count() >= 2, reason="this machine has a device for each")
def test_nccl_needs_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="CUDA device for each process"):
        start_world(ParallelConfig(backend="nccl"))
