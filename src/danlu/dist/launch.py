"""Starts N processes of one danlu command on this machine (torchrun underneath), and speaks for them.

The one process that the user started keeps the terminal. Below it, in a session of its own, runs an agent
(`danlu.dist.agent`, torch's elastic launcher), and below that the ranks. So Ctrl-C, which a terminal sends to a whole
process group, reaches the starter alone, and it hands every signal on to each rank once. This module does not import
torch.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import psutil

from danlu.core.errors import RequestError

LAUNCHED = "DANLU_LAUNCH_FOLDER"
"""the environment variable that tells a rank that `launch` started it, and where to leave word"""
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS = 10.0
# -P: what lies in the user's working folder must not stand in for a library of the same name.
_PROGRAM = (
    *(sys.executable, "-P", "-c"),
    "import sys; from danlu.cli.main import main; sys.argv[0] = 'danlu'; sys.exit(main())",
)


def launch(
    argv: Sequence[str],
    processes: int,
    *,
    program: Sequence[str] = _PROGRAM,
    say: Callable[[str], None] | None = None,
) -> int:
    """Runs `danlu ARGV` in `processes` processes and returns when all have ended.

    SIGINT, SIGTERM and SIGHUP are handed on to every rank, once each time. When a rank fails, the others are told
    to end, and killed when they do not. Only the first rank's output is shown; of an error that a rank reported
    (`tell_launcher`), the earliest is said, once.

    Args:
        argv: the command line without the program's name, as it was given: `["train", "recipe.yaml", ...]`.
        processes: how many.
        program: what runs in each, before `argv`.
        say: shows an error to the user; by default on stderr.

    Returns:
        0 when every rank returned 0, else the exit code of the one that failed first (128 + N after signal N).

    Raises:
        RequestError: fewer than one process, or called within a rank.
    """
    if processes < 1:
        raise RequestError(f"{processes} processes cannot run anything", where="--processes", mend="Give 1 or more")
    if under_launcher():
        raise RequestError("this process is already one of several", where="--processes", mend="Leave it out")
    with tempfile.TemporaryDirectory(prefix="danlu-launch-") as folder:
        request = {"program": [*program, *argv], "processes": processes, "folder": folder}
        agent = subprocess.Popen(
            [sys.executable, "-P", "-m", "danlu.dist.agent", json.dumps(request)],
            env=_environment(folder, processes),
            start_new_session=True,
        )
        _attend(agent)
        _sweep(folder)
        return _outcome(Path(folder), agent.returncode, say or _say)


def under_launcher() -> bool:
    """True in a rank: torchrun (by `launch` or by hand) started this process, and it must not launch others."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def tell_launcher(message: str, exit_code: int) -> bool:
    """Leaves the reason for this rank's end with `launch`, which will show the first one. False: nobody to tell."""
    folder = os.environ.get(LAUNCHED)
    if folder is None or not under_launcher():
        return False
    word = {"time": time.time(), "message": message, "exit_code": exit_code}
    path = Path(folder) / f"word-{os.environ['RANK']}.json"
    with contextlib.suppress(OSError):
        aside = path.with_suffix(".aside")
        aside.write_text(json.dumps(word), encoding="utf-8")
        aside.rename(path)
        return True
    return False


def _environment(folder: str, processes: int) -> dict[str, str]:
    threads = max(1, len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0]) // processes)
    defaults = {"OMP_NUM_THREADS": str(threads), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(int(_GRACE_SECONDS))}
    return {**defaults, **os.environ, LAUNCHED: folder}


def _attend(agent: subprocess.Popen[bytes]) -> None:
    """Waits for the agent and hands signals on."""

    def forward(number: int, _frame: FrameType | None) -> None:
        # A terminal that is gone cannot ask for anything else than an orderly end.
        sent = signal.SIGTERM if number == signal.SIGHUP else number
        ranks = _ranks(agent.pid)
        for rank in ranks:
            with contextlib.suppress(psutil.Error):
                rank.send_signal(sent)
        if not ranks:
            agent.terminate()

    with _handling(forward):
        while agent.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(timeout=0.2)


def _ranks(agent: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(agent).children()
    return []


def _sweep(folder: str) -> None:
    """Ends what outlives the agent (it was killed): ranks and their children, known by their environment."""
    alive = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(LAUNCHED) == folder:
                alive.append(process)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in alive:
            with contextlib.suppress(psutil.Error):
                end(process)
        _, alive = psutil.wait_procs(alive, timeout=_GRACE_SECONDS)


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {}
    for number in _FORWARDED:
        with contextlib.suppress(ValueError):  # not in the main thread: Python takes no signals there
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _outcome(folder: Path, returncode: int, say: Callable[[str], None]) -> int:
    """The exit code of the whole; says what no rank could say for itself."""
    words = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("word-*.json")]
    first = min(words, key=lambda word: word["time"], default=None)
    if first is not None and returncode != 0:
        say(first["message"])
        return int(first["exit_code"])
    failure = folder / "failure.json"
    if not failure.exists():
        if returncode < 0:
            if returncode != -signal.SIGTERM:  # which is what a Ctrl-C before there are ranks becomes
                say(f"The launcher of the processes was killed by {_signal(-returncode)}.")
            return 128 - returncode
        return returncode
    failed = json.loads(failure.read_text(encoding="utf-8"))
    code = int(failed["exit_code"])
    if code < 0:
        hint = " Perhaps the machine ran out of memory." if code == -signal.SIGKILL else ""
        say(f"Process {failed['rank']} was killed by {_signal(-code)}.{hint}")
        return 128 - code
    if failed["rank"] != 0 and failed["tail"]:
        say(f"Process {failed['rank']} failed:\n{failed['tail']}")
    return code


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _say(text: str) -> None:
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()
