"""Encoding in several processes. A worker is a fresh Python that imports little and writes its own files.

Workers are started with `python -m danlu.data.pool` rather than through multiprocessing, which would run the user's
own script again in each of them.
"""

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import danlu
from danlu.core import errors
from danlu.core.errors import DanluError, RunError
from danlu.data.encoding import Encode, Written, encode_spans
from danlu.data.sources import Source, Span


def encode_in_processes(
    source: Source,
    encode: Encode,
    units: Sequence[Sequence[Span]],
    folders: Sequence[Path],
    on_bad: str,
    num_processes: int,
) -> list[Written]:
    """Encodes each unit of spans into its folder, as many at once as there are processes; results in order.

    Raises:
        what `encode_spans` raises, for the first unit that failed; RunError when a process dies.
    """
    setup = pickle.dumps((source, encode, on_bad))
    workers = [_start(num_processes) for _ in range(min(num_processes, len(units)))]
    try:
        results = _shared_out(workers, setup, list(zip(units, folders, strict=True)))
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    for at in sorted(results):
        result = results[at]
        if isinstance(result, BaseException):
            raise result
    return [results[at] for at in range(len(units))]  # type: ignore[misc]


def _shared_out(
    workers: Sequence["subprocess.Popen[bytes]"], setup: bytes, units: Sequence[tuple[Sequence[Span], Path]]
) -> dict[int, Written | BaseException]:
    """What became of each unit, by its number; after a failure no new one is begun."""
    jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
    for at in range(len(units)):
        jobs.put(at)
    results: dict[int, Written | BaseException] = {}

    def drive(worker: "subprocess.Popen[bytes]") -> None:
        failed = _begin(worker, setup)
        while not any(isinstance(result, BaseException) for result in list(results.values())):
            try:
                at = jobs.get_nowait()
            except queue.Empty:
                return
            results[at] = failed or _ask(worker, *units[at])

    threads = [threading.Thread(target=drive, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _start(num_processes: int) -> "subprocess.Popen[bytes]":
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    home = str(Path(danlu.__file__).parent.parent)
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([home, *filter(None, sys.path)]),
        "RAYON_NUM_THREADS": str(max(1, cores // num_processes)),
        "TOKENIZERS_PARALLELISM": "true",
    }
    command = [sys.executable, "-m", "danlu.data.pool"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables)


def _begin(worker: "subprocess.Popen[bytes]", setup: bytes) -> RunError | None:
    try:
        _send(worker.stdin, setup)
    except OSError:
        return _ended(worker)
    return None


def _ended(worker: "subprocess.Popen[bytes]") -> RunError:
    code = worker.wait()
    hint = " (likely for want of memory)" if code == -signal.SIGKILL else ""
    return RunError(f"a tokenising process ended with code {code}{hint}", mend="Set data.workers to 1")


def _ask(worker: "subprocess.Popen[bytes]", spans: Sequence[Span], folder: Path) -> Written | BaseException:
    try:
        _send(worker.stdin, pickle.dumps((spans, folder)))
        kind, content = pickle.loads(_receive(worker.stdout))
    except (EOFError, OSError):
        return _ended(worker)
    if kind == "written":
        return content
    if kind == "refused":
        name, problem, where, mend = content
        return getattr(errors, name)(problem, where=where, mend=mend)
    if kind == "disk":
        return OSError(*content)
    return RunError(f"a tokenising process failed: {content}")


def _send(stream: IO[bytes] | None, content: bytes) -> None:
    assert stream is not None
    stream.write(struct.pack("<Q", len(content)) + content)
    stream.flush()


def _receive(stream: IO[bytes] | None) -> bytes:
    assert stream is not None
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    (length,) = struct.unpack("<Q", header)
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _work() -> None:
    """A worker's life: the setup, then one unit after the other until the parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    try:
        source, encode, on_bad = pickle.loads(_receive(sys.stdin.buffer))
        while True:
            spans, folder = pickle.loads(_receive(sys.stdin.buffer))
            _send(answers, pickle.dumps(_answer(source, encode, on_bad, spans, folder)))
    except (EOFError, BrokenPipeError):
        return


def _answer(source: Source, encode: Encode, on_bad: str, spans: Sequence[Span], folder: Path) -> tuple[str, Any]:
    try:
        return "written", encode_spans(source, spans, encode, folder, on_bad)
    except DanluError as error:
        name = type(error).__name__ if hasattr(errors, type(error).__name__) else "RunError"
        return "refused", (name, error.problem, error.where, error.mend)
    except OSError as error:
        return "disk", (error.errno, error.strerror or str(error), error.filename)
    except Exception:  # noqa: BLE001 - whatever it is, the parent must be told, not left waiting
        return "failed", traceback.format_exc(limit=3)


if __name__ == "__main__":
    _work()
