"""The agent between `launch` and the ranks: torch's elastic launcher without its log lines and tracebacks.

Run as `python -m danlu.dist.agent REQUEST`, where REQUEST is JSON with `program`, `processes` and `folder`.
"""

import json
import logging
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from danlu.dist.world import end_with_parent

_TAIL_CHARACTERS = 4000


def main() -> int:
    """Runs the ranks; leaves `failure.json` in the folder when one of them fails, and returns its exit code."""
    end_with_parent(signal.SIGTERM)
    logging.disable(logging.CRITICAL)
    request = json.loads(sys.argv[1])
    folder, processes = Path(request["folder"]), int(request["processes"])
    # Only the first rank has the terminal; what the others write is kept, and shown if one of them breaks.
    quiet = dict.fromkeys(range(1, processes), Std.ALL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), redirects=quiet),
    )
    program, *arguments = request["program"]
    try:
        elastic_launch(config, program)(*arguments)
    except ChildFailedError as error:
        return _record_failure(error, folder)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _record_failure(error: ChildFailedError, folder: Path) -> int:
    rank, failure = min(error.failures.items(), key=lambda entry: _moment(entry[1]))
    tail = ""
    for path in folder.glob(f"logs/**/{rank}/stderr.log"):
        tail = path.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARACTERS:].strip()
    content = {"rank": rank, "exit_code": failure.exitcode, "tail": tail}
    (folder / "failure.json").write_text(json.dumps(content), encoding="utf-8")
    return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode


def _moment(failure: Any) -> tuple[bool, int]:
    """Failures in the order of time; a rank that the agent itself told to end is no cause."""
    return failure.exitcode == -signal.SIGTERM, failure.timestamp


if __name__ == "__main__":
    sys.exit(main())
