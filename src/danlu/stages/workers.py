"""Workers: processes of this machine that share the runs of one folder, and the locks by which they do so."""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from danlu.core.errors import DanluError, RequestError
from danlu.recipe.recipe import Recipe
from danlu.stages.run_folder import write_atomically
from danlu.stages.train import Listener, train
from danlu.train.interrupts import Interrupts

POLL_SECONDS = 0.5
MOST_DEATHS = 3


def hold(path: Path) -> IO[str] | None:
    """The lock, free again when it is closed or its process ends; None when somebody has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


@contextlib.contextmanager
def light_collection() -> Iterator[None]:
    """Within it a `gc.collect` looks at what came since, and not at the million objects that libraries hold."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def run_to_end(
    recipe: Recipe, folder: Path, interrupts: Interrupts, listeners: Sequence[Listener] = ()
) -> Mapping[str, Any]:
    """Begins the run in `folder`, or goes on with what is there, and returns its summary; a finished one stays."""
    told = summary_of(folder)
    if told.get("status") == "finished":  # its process ended between the run's end and the telling
        return told
    resume = (folder / "journal.jsonl").is_file()
    interrupts.asked = None
    try:
        train(recipe, out=folder, resume=resume, listeners=listeners, interrupts=interrupts)
    except RequestError:
        if not resume:
            raise
        shutil.rmtree(folder)  # it had used its budget, but not come to its end
        train(recipe, out=folder, listeners=listeners, interrupts=interrupts)
    finally:
        interrupts.asked = None
    return summary_of(folder)


def summary_of(folder: Path) -> Mapping[str, Any]:
    """What a run's `summary.json` holds; empty where there is none."""
    path = folder / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def note_failure(folder: Path, reason: str) -> str:
    """Leaves in the folder why its run failed, also where the run came to no journal."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "failed.txt", reason + "\n")
    return reason


def work_many(
    module: str, folder: Path, num: int, interrupts: Interrupts, *, until: float, say: Callable[[], None]
) -> None:
    """Runs `join(folder, interrupts, until=, say=)` of `module` in `num` processes; one that dies is replaced."""
    running = {index: _start(module, folder, index, num, until) for index in range(num)}
    num_deaths, told = 0, False
    try:
        while running:
            time.sleep(POLL_SECONDS)
            say()
            if interrupts.received and not told:
                told = True
                for process in running.values():
                    process.send_signal(signal.SIGTERM)
            for index, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[index]
                if process.returncode and not interrupts.received:
                    num_deaths += 1
                    if num_deaths < MOST_DEATHS * num:
                        running[index] = _start(module, folder, index, num, until)
    finally:
        for process in running.values():
            process.kill()
    say()


def _start(module: str, folder: Path, index: int, num: int, until: float) -> subprocess.Popen[bytes]:
    """A worker in a process group of its own, so that Ctrl-C comes to it once, through us."""
    threads = max(1, (os.cpu_count() or num) // num)
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    device = _device_of(index)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    words = [sys.executable, "-m", "danlu.stages.workers", module, str(folder), str(until), str(os.getpid())]
    return subprocess.Popen(words, env=environment, process_group=0, stdin=subprocess.DEVNULL)


def _device_of(index: int) -> str | None:
    """The GPU of a worker, where there are several: they go round."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(at) for at in range(torch.cuda.device_count())]
    return devices[index % len(devices)] if len(devices) > 1 else None


def _main(module: str, folder: Path, until: float, parent: int) -> int:
    """One worker: it ends in order when its parent is gone."""
    with Interrupts() as interrupts:

        def still_wanted() -> None:
            if os.getppid() != parent:
                interrupts.received = signal.SIGTERM

        still_wanted()
        importlib.import_module(module).join(folder, interrupts, until=until, say=still_wanted)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(_main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
    except DanluError as trouble:
        sys.stderr.write(f"danlu: {trouble}\n")
        sys.exit(trouble.exit_code)
