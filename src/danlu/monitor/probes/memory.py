"""The most memory that the run has used."""

import contextlib
import functools
import re
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from pydantic import Field

from danlu.monitor.base import Probe, ProbeContext, Series, Value

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Memory(Probe):
    """`memory_bytes`: the peak so far of this process: of its CUDA device's allocations, else resident memory.

    `memory_share`: that over what there is, the device's memory or the machine's. `micro_batch_tokens`: what one
    micro-batch may hold; it is halved when memory runs out.
    """

    every: int = Field(default=5, ge=1)
    """steps from one reading to the next"""

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        device = ctx.facts.world.device
        used = peak_memory_bytes(device)
        micro = {"micro_batch_tokens": ctx.micro_batch_tokens} if ctx.micro_batch_tokens else {}
        return {"memory_bytes": used, "memory_share": used / total_memory_bytes(device), **micro}

    def summarise(self, series: Series) -> Mapping[str, float]:
        return {name: values[-1] for name, values in series.items()}


@functools.cache
def total_memory_bytes(device: torch.device) -> int:
    """What the CUDA device, or else the machine, has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held since `reset_peak_memory`, on its CUDA device or else in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, TypeError):  # no /proc here, or no such line in it
        # getrusage also remembers what the process was before it became ours
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", _STATUS.read_text())[1])  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES


def reset_peak_memory(device: torch.device) -> None:
    """Lets a run's peak be its own where one process does several; main memory's can be reset under Linux only."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
