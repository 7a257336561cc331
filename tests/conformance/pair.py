"""Runs a script in two processes that know of each other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

SECONDS = 300


def run_pair(script: Path, *arguments: str) -> None:
    """Both must end well within `SECONDS`; what they said to stderr is in the message when they do not."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(2):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
        told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in told.items()}}
        command = [sys.executable, str(script), *arguments]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=SECONDS)[1] for process in started]
    assert not any(process.returncode for process in started), "\n".join(said)
