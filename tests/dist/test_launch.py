"""`launch` with real processes: arguments, exit codes, words, signals, and no rank left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from danlu.core.errors import RequestError
from danlu.dist.launch import launch, tell_launcher, under_launcher

# A rank without torch, so that only the agent costs seconds. It logs what reaches it to rank-N.log.
RANK = """
import os, signal, sys, time
folder, mode = sys.argv[1:3]
rank = os.environ["RANK"]
log = open(os.path.join(folder, f"rank-{rank}.log"), "a", buffering=1)
count = 0
def heard(number, frame):
    global count
    count += 1
    print(signal.Signals(number).name, file=log)
signal.signal(signal.SIGINT, heard)
signal.signal(signal.SIGTERM, heard)
print("pid", os.getpid(), file=log)
print("output of rank", rank, flush=True)
if mode == "word":
    from danlu.dist.launch import tell_launcher
    assert tell_launcher("learning_rate: must be above zero.", 2)
    sys.exit(2)
if mode == "break" and rank == "1":
    print("the reason", file=sys.stderr)
    sys.exit(3)
if mode == "killed" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if mode != "fine":
    until = time.time() + 60
    while not count and time.time() < until:
        time.sleep(0.05)
    time.sleep(0.7)  # a second signal would be heard here
"""

STARTER = """
import sys
from danlu.dist.launch import launch
script, folder, mode = sys.argv[1:4]
sys.exit(launch([folder, mode], 2, program=[sys.executable, script]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "rank.py"
    path.write_text(RANK)
    return path


def _start(script: Path, mode: str) -> subprocess.Popen:
    starter = [sys.executable, "-c", STARTER, str(script), str(script.parent), mode]
    return subprocess.Popen(starter, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _ranks(folder: Path) -> list[int]:
    """The ranks' process ids, once both are ready for signals."""
    until = time.time() + 60
    while time.time() < until:
        logs = [path.read_text() for path in folder.glob("rank-*.log")]
        if len(logs) == 2 and all("\n" in log for log in logs):
            return [int(log.split()[1]) for log in logs]
        time.sleep(0.05)
    raise AssertionError("the ranks did not start")


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("fine", 0, ""),
        ("word", 2, "learning_rate: must be above zero.\n"),
        ("break", 3, "Process 1 failed:\nthe reason\n"),
        ("killed", 137, "Process 1 was killed by SIGKILL. Perhaps the machine ran out of memory.\n"),
    ],
)
def test_ends(script: Path, mode: str, code: int, said: str) -> None:
    """One message and the failing rank's exit code; only the first rank's output is seen."""
    starter = _start(script, mode)
    output, errors = starter.communicate(timeout=60)
    assert (starter.returncode, errors) == (code, said)
    assert output == "output of rank 0\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_each_rank_once(script: Path, number: signal.Signals) -> None:
    """A terminal sends Ctrl-C to the starter's whole process group."""
    starter = _start(script, "wait")
    pids = _ranks(script.parent)
    os.killpg(starter.pid, number)
    _, errors = starter.communicate(timeout=60)
    assert (starter.returncode, errors) == (0, "")
    logs = [path.read_text().splitlines()[1:] for path in script.parent.glob("rank-*.log")]
    assert logs == [[number.name], [number.name]]
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("victim", ["starter", "agent"])
def test_no_rank_is_left_behind(script: Path, victim: str) -> None:
    """kill -9 of what is above the ranks tells them to end."""
    starter = _start(script, "wait")
    pids = _ranks(script.parent)
    agent = psutil.Process(pids[0]).ppid()
    os.kill(starter.pid if victim == "starter" else agent, signal.SIGKILL)
    starter.communicate(timeout=60)
    until = time.time() + 30
    while any(psutil.pid_exists(pid) for pid in [*pids, agent]) and time.time() < until:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in [*pids, agent])
    assert starter.returncode == (-9 if victim == "starter" else 137)


def test_wrong_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="0 processes"):
        launch([], 0)
    assert not tell_launcher("nobody listens", 1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert under_launcher()
    with pytest.raises(RequestError, match="already one of several"):
        launch([], 2)


def test_the_starter_stays_light() -> None:
    """The process that only waits does not load torch."""
    code = "import sys, json, danlu.dist.launch; print(json.dumps('torch' in sys.modules))"
    assert json.loads(subprocess.check_output([sys.executable, "-c", code])) is False
