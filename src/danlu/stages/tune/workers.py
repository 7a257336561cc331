"""Workers: processes of this machine that share a study; also what each of them does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from danlu.core.errors import DanluError
from danlu.recipe.load import load_recipe
from danlu.stages.tune.study import Study
from danlu.stages.tune.trial import run_trial
from danlu.train.interrupts import Interrupts

POLL_SECONDS = 0.5
MOST_DEATHS = 3


def work(study: Study, interrupts: Interrupts, *, until: float, say: Callable[[], None] = lambda: None) -> None:
    """Runs trials in this process until the budget is used, `until` (Unix seconds) is past, or a signal comes."""
    while interrupts.reason is None and time.time() < until:
        taken = study.take()
        if taken is None:
            return
        state = run_trial(study, taken, interrupts)
        say()
        if state == "running":
            return


def work_many(study: Study, interrupts: Interrupts, *, until: float, say: Callable[[], None]) -> None:
    """Runs trials in `tune.workers` processes; one that dies is replaced, and its trial is gone on with."""
    num = study.config.workers
    running = {index: _start(study.folder, index, num, until) for index in range(num)}
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
                        running[index] = _start(study.folder, index, num, until)
    finally:
        for process in running.values():
            process.kill()
    say()


def _start(folder: Path, index: int, num: int, until: float) -> subprocess.Popen[bytes]:
    """A worker in a process group of its own, so that Ctrl-C comes to it once, through us."""
    threads = max(1, (os.cpu_count() or num) // num)
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    device = _device_of(index)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    words = [sys.executable, "-m", "danlu.stages.tune.workers", str(folder), str(until), str(os.getpid())]
    return subprocess.Popen(words, env=environment, process_group=0, stdin=subprocess.DEVNULL)


def _device_of(index: int) -> str | None:
    """The GPU of a worker, where there are several: they go round."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(at) for at in range(torch.cuda.device_count())]
    return devices[index % len(devices)] if len(devices) > 1 else None


def _main(folder: Path, until: float, parent: int) -> int:
    """One worker: it ends in order when its parent is gone."""
    with Interrupts() as interrupts:
        study = Study(load_recipe(folder / "recipe.yaml"), folder)

        def still_wanted() -> None:
            if os.getppid() != parent:
                interrupts.received = signal.SIGTERM

        still_wanted()
        work(study, interrupts, until=until, say=still_wanted)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(_main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
    except DanluError as trouble:
        sys.stderr.write(f"danlu: {trouble}\n")
        sys.exit(trouble.exit_code)
