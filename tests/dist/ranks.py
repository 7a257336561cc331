"""Starts a script in N real processes with torchrun's environment, without torchrun's seconds."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TOY = Path(__file__).with_name("toy.py")


def run_ranks(script: Path, request: Any, processes: int, *, timeout: float = 300) -> Any:
    """The JSON that the first rank printed last. A rank that fails fails the test, with its stderr."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(processes):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
        command = [sys.executable, str(script), json.dumps(request)]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        results = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    failed = [rank for rank, process in enumerate(started) if process.returncode != 0]
    assert not failed, "\n".join(f"rank {rank}: {results[rank][1]}" for rank in failed)
    return json.loads(results[0][0].splitlines()[-1])
