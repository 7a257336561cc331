"""Checkpoints survive kill -9, damage and full disks, and give back exactly what they were given."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from danlu.core.errors import RunError
from danlu.dist.state import load_state, state_of
from danlu.dist.world import World
from danlu.train.checkpoint import Checkpoints, check


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", World())


def _write(checkpoints: Checkpoints, steps: list[int], best: int | None = None) -> None:
    for step in steps:
        checkpoints.save(step, {"step": step, "weight": torch.full((64,), float(step))}, best=step == best)
    checkpoints.wait()


def _names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_gives_back_what_it_was_given(checkpoints: Checkpoints) -> None:
    """Numbers, containers, tensors of every type, shared ones, and arrays, at the same places."""
    shared = torch.randn(3, 2)
    dtypes = (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn)
    trees = {
        "clock": {"step": 7, "seconds": 0.1 + 0.2, "nan": float("nan"), "big": 2**60},
        "mixed": [None, True, "text", (1, 2.5), {3: "c", (1, "a"): [4]}, {"$odd": 1}],
        "set": frozenset({3, 1}),
        "empty": {"list": [], "dict": {}, "tuple": (), "tensor": torch.zeros(0, 4)},
        "tensors": {str(dtype): torch.tensor([[0.0, 1.0], [1.0, 1.0]]).to(dtype) for dtype in dtypes},
        "scalar": torch.tensor(3.5),
        "strided": torch.arange(12.0).view(3, 4).t(),
        "shared": [shared, shared],
        "array": np.arange(4, dtype=np.int32),
        "dtype": torch.bfloat16,
    }
    path = checkpoints.save(7, trees)
    shared.zero_()  # what happens later must not reach the file
    found = checkpoints.load(path)
    assert str(found["clock"]) == str(trees["clock"])
    assert [found[name] for name in ("mixed", "set", "dtype")] == [trees[name] for name in ("mixed", "set", "dtype")]
    assert found["empty"]["tuple"] == ()
    assert found["empty"]["tensor"].shape == (0, 4)
    for name, tensor in trees["tensors"].items():
        assert found["tensors"][name].dtype == tensor.dtype
        assert torch.equal(found["tensors"][name].float(), tensor.float())
    assert torch.equal(found["scalar"], trees["scalar"])
    assert torch.equal(found["strided"], trees["strided"])
    assert found["shared"][0].abs().sum() > 0
    assert torch.equal(found["shared"][0], found["shared"][1])
    assert found["array"].tolist() == [0, 1, 2, 3]


def test_what_cannot_be_kept_is_named(checkpoints: Checkpoints) -> None:
    with pytest.raises(TypeError, match=r"cannot hold a function .*techniques/ema/hook"):
        checkpoints.save(1, {"techniques": {"ema": {"hook": _names}}})


@pytest.mark.parametrize("kind", ["adamw", "sgd", "adafactor"])
def test_training_goes_on_bit_for_bit(checkpoints: Checkpoints, kind: str) -> None:
    """The steps after a resume give the very weights of an unbroken run."""
    make = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "adafactor": torch.optim.Adafactor}[kind]
    options = {"momentum": 0.9} if kind == "sgd" else {}

    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        return module, make(module.parameters(), lr=0.01, **options)

    def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            module(torch.randn(5, 4, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            optimizer.step()

    module, optimizer = start()
    train(module, optimizer, range(3))
    path = checkpoints.save(3, {"module": state_of(module, optimizer)})
    train(module, optimizer, range(3, 6))
    again, other = start()
    load_state(again, other, checkpoints.load(path)["module"])
    train(again, other, range(3, 6))
    for one, two in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_frozen_weights_may_stay_out(checkpoints: Checkpoints) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    path = checkpoints.save(1, {"module": state_of(module, frozen=False)})
    saved = checkpoints.load(path)["module"]
    assert sorted(saved["model"]) == ["1.bias", "1.weight"]
    load_state(module, None, saved)


def test_another_model_is_refused(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(1, {"module": state_of(nn.Linear(2, 2))})
    for other in (nn.Linear(3, 2), nn.Linear(2, 2, bias=False), nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(RunError, match="of another model"):
            load_state(other, None, checkpoints.load(path)["module"])


def test_keeps_the_newest_and_the_best(checkpoints: Checkpoints) -> None:
    _write(checkpoints, [1, 2, 3, 4, 5], best=2)
    assert _names(checkpoints) == ["step-000002", "step-000004", "step-000005"]
    assert checkpoints.newest() == checkpoints.path_of(5)
    assert checkpoints.best() == checkpoints.path_of(2)
    _write(checkpoints, [6], best=6)
    assert _names(checkpoints) == ["step-000005", "step-000006"]


def test_a_step_may_be_written_again(checkpoints: Checkpoints) -> None:
    _write(checkpoints, [1])
    _write(checkpoints, [1], best=1)
    assert _names(checkpoints) == ["step-000001"]
    assert checkpoints.best() == checkpoints.path_of(1)


def test_one_that_was_being_replaced_still_counts(checkpoints: Checkpoints) -> None:
    """A crash between the two renames of a replacement."""
    _write(checkpoints, [1])
    replaced = checkpoints.folder / ".replaced-step-000001"
    checkpoints.path_of(1).rename(replaced)
    again = Checkpoints(checkpoints.folder, World())
    assert again.newest() == replaced
    _write(again, [2, 3])
    assert _names(again) == ["step-000002", "step-000003"]


def test_nothing_there(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    assert checkpoints.best() is None
    with pytest.raises(RunError, match=r"manifest\.json is missing"):
        checkpoints.load(checkpoints.path_of(3))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink], ids=["flip", "cut", "delete"])
@pytest.mark.parametrize("name", ["shard-00000.safetensors", "shard-00000.json", "tree.json", "manifest.json"])
def test_damage_is_seen_and_the_one_before_used(checkpoints: Checkpoints, damage, name: str) -> None:  # type: ignore[no-untyped-def]
    _write(checkpoints, [1, 2])
    damage(checkpoints.path_of(2) / name)
    notes: list[str] = []
    again = Checkpoints(checkpoints.folder, World(), note=notes.append)
    newest = again.newest()
    assert newest == again.path_of(1)
    assert again.load(newest)["step"] == 1
    assert again.newest() == newest
    assert len(notes) == 1
    assert name in notes[0]
    assert "step-000002 is damaged" in notes[0]
    with pytest.raises(RunError, match="damaged"):
        again.load(again.path_of(2))


def test_nothing_that_is_read_can_run(checkpoints: Checkpoints) -> None:
    """No file of a checkpoint is a pickle."""
    _write(checkpoints, [1])
    assert {path.suffix for path in checkpoints.path_of(1).iterdir()} == {".json", ".safetensors"}


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from danlu.dist.world import World
from danlu.train.checkpoint import Checkpoints

folder, moments = Path(sys.argv[1]), random.Random(0)

def write(pipe):
    checkpoints = Checkpoints(folder, World())
    newest = checkpoints.newest()
    step = checkpoints.load(newest)["step"] if newest else 0
    while True:
        step += 1
        weights = {str(n): torch.full((100_000,), float(step)) for n in range(4)}
        checkpoints.save(step, {"step": step, "weights": weights}, best=step % 3 == 0)
        checkpoints.wait()
        os.write(pipe, b"%d " % step)

for _ in range(12):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        write(writing)
    os.close(writing)
    told = b""
    for _ in range(moments.randrange(3)):
        told += os.read(reading, 1000)
    time.sleep(moments.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reading, 1000):
        told += more
    os.close(reading)
    finished = int((told.split() or [b"0"])[-1])
    notes = []
    reader = Checkpoints(folder, World(), note=notes.append)
    newest = reader.newest()
    trees = reader.load(newest) if newest else {"step": 0, "weights": {}}
    same = all(bool((weight == trees["step"]).all()) for weight in trees["weights"].values())
    aside = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    print(json.dumps([finished, trees["step"], same, notes, aside]), flush=True)
"""


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """A dozen kills of a process that writes: what it finished is there, whole, and the next one goes on from it."""
    command = [sys.executable, "-c", KILLER, str(tmp_path / "checkpoints")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    lives = [json.loads(line) for line in subprocess.check_output(command, text=True, env=environment).splitlines()]
    before = 0
    for finished, found, same, notes, _ in lives:
        assert max(finished, before) <= found <= max(finished, before) + 1
        assert same
        assert notes == []
        before = found
    assert len(lives) == 12
    assert before > 3
    assert any(aside for *_, aside in lives), "no kill hit a save: make the sleep longer"


LIMITED = """
import resource, signal, sys, json
from pathlib import Path
import torch
from danlu.core.errors import RunError
from danlu.dist.world import World
from danlu.train.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), World())
checkpoints.save(1, {"weight": torch.ones(1000)})
checkpoints.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
checkpoints.save(2, {"weight": torch.ones(100_000)})
try:
    checkpoints.save(3, {"weight": torch.ones(1)})
except RunError as error:
    print(error)
print(checkpoints.newest().name, checkpoints.newest() is not None)
checkpoints.save(4, {"weight": torch.ones(10)})
checkpoints.wait()
print(checkpoints.newest().name)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files here")
def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    """The error comes at the next call, says what happened, and leaves neither half a file nor less than before."""
    folder = tmp_path / "checkpoints"
    output = subprocess.check_output([sys.executable, "-c", LIMITED, str(folder)], text=True).splitlines()
    assert output[0].startswith(f"{folder}: the disk is full: the checkpoint of step 2 needs 400 KB; step-000001 still")
    assert output[0].endswith("Make room and go on with --resume.")
    assert output[1:] == ["step-000001 True", "step-000004"]
    assert sorted(path.name for path in folder.iterdir()) == ["step-000001", "step-000004"]


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one, where this machine lets a small one be mounted."""
    mount, options = shutil.which("mount"), ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        checkpoints = Checkpoints(tmp_path / "checkpoints", World())
        _write(checkpoints, [1])
        with pytest.raises(RunError, match=r"the disk is full.*step-000001 still stands"):
            _write_big(checkpoints, 2)
        assert _names(checkpoints) == ["step-000001"]
        assert checkpoints.newest() == checkpoints.path_of(1)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def _write_big(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, {"weight": torch.ones(1_000_000)})
    checkpoints.wait()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints", World())
    checkpoints.save(1, {"step": 1})
    with pytest.raises(RunError, match=r"cannot be written to .*choose another folder.*start again"):
        checkpoints.wait()
    checkpoints.wait()  # said once


def test_the_file_is_safetensors_proper(checkpoints: Checkpoints) -> None:
    """The library's own reader agrees with the writer, and the manifest with the files."""
    from safetensors.torch import load_file

    _write(checkpoints, [3])
    path = checkpoints.path_of(3)
    (tensor,) = load_file(path / "shard-00000.safetensors").values()
    assert torch.equal(tensor, torch.full((64,), 3.0))
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["step"], manifest["best"], manifest["processes"]) == (3, False, 1)
    assert check(path) is None
