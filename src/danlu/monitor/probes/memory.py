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
        device = ctx.facts.world.device
        if device.type == "cuda":
            return {"memory_bytes": torch.cuda.max_memory_allocated(device)}
        return {"memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES}

    def summarise(self, series: Series) -> Mapping[str, float]:
        return {"memory_bytes": max(series["memory_bytes"])}
