"""Some batches come late and most in time."""

import statistics

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class SlowWorker(Diagnosis):
    """Found when the waits for data are long now and then, and short in between, reading after reading:

        median over readings of (longest wait / mean wait) ≥ ratio,    median data_starved_share ≥ share

    That is what one slow worker among several looks like; where every batch is late, the run is data-bound.
    """

    window: int = 10
    """readings that are judged"""
    ratio: float = 3.0
    """longest over mean wait of a reading's steps"""
    share: float = 0.1
    """of the time"""
    seconds: float = 0.02
    """the longest waits must be longer than this"""

    def diagnose(self, history: History) -> list[Finding]:
        names = ("data_starved_share", "data_wait_seconds/max", "data_wait_seconds")
        shares, longest, means = (history.series(name, self.window) for name in names)
        if len(shares) < self.window or len(longest) < self.window or min(shares) < self.share / 2:
            return []
        ratios = [high / middle for high, middle in zip(longest, means, strict=True) if middle > 0]
        if not ratios or statistics.median(ratios) < self.ratio or statistics.median(shares) < self.share:
            return []
        if statistics.median(longest) < self.seconds:
            return []
        sentence = (
            f"Now and then a batch is {statistics.median(longest):.2g} s late, {statistics.median(ratios):.1f} times "
            "the usual wait: one of the workers that read the data is slower than the others, or some rows are dearer"
        )
        evidence = {
            "data_wait_seconds/max": statistics.median(longest),
            "data_wait_seconds": statistics.median(means),
            "data_starved_share": statistics.median(shares),
        }
        return self.found(history.steps("data_wait_seconds", 1)[0], sentence, evidence)
