"""The micro-batch: as many rows at once as fit in memory, found by trying."""

import contextlib
import errno
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch

from danlu.core.errors import OutOfMemoryError

_SHARE = 0.8
"""of the free memory; the rest is for fragmentation, the optimiser's temporaries and the other programs"""
CPU_WORKING_BYTES = 1 << 30
"""What one micro-batch may need on a CPU. A core is kept busy by far less, and beyond it each step only pays for fresh
pages from the kernel and for misses of the cache; more rows in one piece are not faster there, as they are on a GPU."""
_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch, CUDA's libraries, Python or the kernel say when memory runs out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def find_micro_batch(
    try_rows: Callable[[int], None],
    rows: int,
    device: torch.device | str,
    *,
    reserve_bytes: int = 0,
    sharing: int | None = None,
) -> int:
    """The largest number of rows, at most `rows`, whose forward and backward fit in memory.

    On CUDA it tries, and halves when memory runs out: most often one trial, at most one step's time. On a CPU the
    kernel would kill the process instead, so it measures the peak memory of 1, 2 and 4 rows (a few percent of a step)
    and extrapolates: peak(n) = a + b n must stay within 80 % of what the machine, the container and the limits
    of the process leave free, and b n within `CPU_WORKING_BYTES`.

    Args:
        try_rows: runs a forward and a backward of the longest n rows and drops the gradients.
        rows: how many there are at most.
        device: where it runs.
        reserve_bytes: what will be taken later besides: the optimiser's state.
        sharing: processes on this machine that share its memory; by default what torchrun says.

    Raises:
        OutOfMemoryError: not even one row fits.
    """
    device = torch.device(device)
    if device.type == "cpu":
        share = sharing or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return _extrapolate(try_rows, rows, reserve_bytes, share)
    while not _fits(try_rows, rows, device, reserve_bytes):
        rows = _half(rows)
    return rows


def available_bytes() -> int:
    """What this process may still take: the least of the machine's, its container's and its own limits."""
    bounds = [psutil.virtual_memory().available, *_cgroup_rooms(), *_limit_rooms()]
    return max(0, min(bounds))


def _fits(try_rows: Callable[[int], None], rows: int, device: torch.device, reserve_bytes: int) -> bool:
    """One trial. The error is let go before the next: its traceback holds the tensors that filled the memory."""
    failed = False
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        try_rows(rows)
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    if failed or device.type == "cuda":
        gc.collect()
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(device)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        failed = failed or peak + reserve_bytes > free + torch.cuda.memory_reserved(device)
    return not failed


def _half(rows: int) -> int:
    if rows == 1:
        raise OutOfMemoryError(
            "not even one row of a batch fits in memory",
            mend="Shorten data.context, choose a smaller model, or switch activation_checkpointing on",
        )
    return (rows + 1) // 2


def _extrapolate(try_rows: Callable[[int], None], rows: int, reserve_bytes: int, sharing: int) -> int:
    cpu = torch.device("cpu")
    before = _resident_bytes()
    free = _SHARE * available_bytes() / sharing - reserve_bytes
    peaks: dict[int, int] = {}
    for trial in sorted({min(number, rows) for number in (1, 2, 4)}):
        # Before a trial, the bound on the safe side: all that the last one took, of the code's pages too, doubles.
        last = max(peaks, default=0)
        if last and 2 * (peaks[last] - before) > free:
            return last
        with _peak() as peak:
            fits = _fits(try_rows, trial, cpu, reserve_bytes)
        if not fits:
            return last or _half(1)
        peaks[trial] = peak[0]
        if rows <= 4 and rows * (peaks[trial] - before) <= trial * free:
            return rows  # no row takes more than the first, which pays for the gradients too
    # The first trial also loads code and fills pools, so the slope is taken without it.
    slope = max((peaks[4] - peaks[2]) / 2, 1.0)
    room = (before + free - peaks[4]) / slope
    fitting = int(min(4 + room, CPU_WORKING_BYTES / slope))
    return max(1, min(rows, fitting))


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    """Within it the largest resident memory is watched; afterwards the list's one entry is that, in bytes."""
    result = [0]
    if _reset_high_water():
        yield result
        result[0] = _status_bytes("VmHWM")
        return
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.002):
            result[0] = max(result[0], _resident_bytes())

    thread = threading.Thread(target=sample, name="memory", daemon=True)
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()
        result[0] = max(result[0], _resident_bytes())


def _reset_high_water() -> bool:
    """Sets VmHWM back to what is resident now (Linux, `man 5 proc`); False where that is not allowed."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return True
    return False


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return _resident_bytes()


def _cgroup_rooms() -> Iterator[int]:
    """Free bytes below the limits of this process's control groups and their parents, versions 1 and 2."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield from _rooms(Path("/sys/fs/cgroup"), path, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                yield from _rooms(Path("/sys/fs/cgroup/memory"), path, *names)


def _rooms(root: Path, path: str, limit: str, usage: str, cached: str) -> Iterator[int]:
    """In a container the path may not be visible; its root then is the container's own group."""
    group = root / path.strip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError, KeyError):
            bound = int((folder / limit).read_text(encoding="ascii"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            yield bound - int((folder / usage).read_text(encoding="ascii")) + int(stat[cached])
        if folder == root:
            return


def _limit_rooms() -> Iterator[int]:
    """Free bytes below the limits that `ulimit` sets on the size of this process."""
    with contextlib.suppress(ImportError):
        import resource

        used = psutil.Process().memory_info()
        for kind, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, getattr(used, "data", used.rss))):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                yield soft - taken
