"""A checkpoint of any strategy and number of processes goes on under any other."""

import json
from pathlib import Path

import pytest
from tests.dist.ranks import TOY, run_ranks

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


ONE_FAILS = """
import json, resource, signal, sys
from pathlib import Path
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from danlu.core.errors import RunError
from danlu.dist.world import start_world, stop_world
from danlu.train.checkpoint import Checkpoints

folder = Path(json.loads(sys.argv[1]))
world = start_world()
checkpoints = Checkpoints(folder, world)
mesh = init_device_mesh("cpu", (2,))
checkpoints.save(1, {"weight": distribute_tensor(torch.ones(100_000), mesh, [Shard(0)])})
checkpoints.wait()
if world.rank == 1:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
checkpoints.save(2, {"weight": distribute_tensor(torch.ones(100_000), mesh, [Shard(0)])})
try:
    checkpoints.wait()
    said = "nothing"
except RunError as error:
    said = str(error)
answers = world.gather_objects([said, checkpoints.newest().name])
stop_world()
print(json.dumps(answers))
"""


def test_one_process_cannot_write(tmp_path: Path) -> None:
    """All of them hear of it, and the checkpoint before it stands."""
    script = tmp_path / "one_fails.py"
    script.write_text(ONE_FAILS)
    answers = run_ranks(script, str(tmp_path / "checkpoints"), 2)
    for said, newest in answers:
        assert "the disk is full: the checkpoint of step 2" in said
        assert newest == "step-000001"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    manifest = json.loads((tmp_path / "checkpoints" / "step-000001" / "manifest.json").read_text())
    assert manifest["processes"] == 2
