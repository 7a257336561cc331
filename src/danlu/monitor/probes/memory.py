"""The most memory that the run has used."""

import resource
import sys
from collections.abc import Mapping

import torch

from danlu.monitor.base import Probe, ProbeContext, Series, Value

_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Memory(Probe):
    """`memory_bytes`: the peak so far of this process: of its CUDA device's allocations, else resident memory."""

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        return {"memory_bytes": peak_memory_bytes(ctx.facts.world.device)}

    def summarise(self, series: Series) -> Mapping[str, float]:
        return {"memory_bytes": max(series["memory_bytes"])}


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held so far, on its CUDA device or else in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES
