"""How long the run waits for its data."""

from collections.abc import Mapping
from pathlib import Path

from danlu.monitor.base import Probe, ProbeContext, Series, Value, mean, total_ratio

_LONG_SHARE, _LONG_SECONDS = 0.2, 0.005


class DataWait(Probe):
    """`data_wait_seconds`: mean wait of a step for its batch; `data_wait_share`: the same over the step's wall time.

    `data_wait_seconds/max` is the longest of these waits. `data_starved_share` is the share without the time that this
    process's threads stood in line for a processor: data that come late only because others use the machine are not
    slow. It is what the kernel says (Linux: /proc/self/task/*/schedstat), read after steps that waited long.
    """

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        wait, seconds = ctx.data_wait_seconds, ctx.step_seconds
        queue = {"queue": queueing_seconds()} if wait > max(_LONG_SHARE * seconds, _LONG_SECONDS) else {}
        return {"wait": wait, "seconds": seconds, **queue}

    def summarise(self, series: Series) -> Mapping[str, float]:
        share = min(1.0, total_ratio(series["wait"], series["seconds"]))
        queue, seconds = series.get("queue", ()), sum(series["seconds"])
        queued = (queue[-1] - queue[0]) * len(queue) / (len(queue) - 1) if len(queue) > 1 else 0.0
        return {
            "data_wait_seconds": mean(series["wait"]),
            "data_wait_seconds/max": max(series["wait"]),
            "data_wait_share": share,
            "data_starved_share": max(0.0, share - queued / seconds) if seconds else 0.0,
        }


def queueing_seconds() -> float:
    """How long the threads of this process have been ready to run without a processor, all together; 0 if unknown."""
    total = 0
    for entry in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(entry.read_text(encoding="ascii").split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return total / 1e9
