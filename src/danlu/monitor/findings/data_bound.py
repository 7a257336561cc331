"""The model waits for its data."""

import statistics

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class DataBound(Diagnosis):
    """Found when the median share of wall time spent waiting for data is above `share` over the last readings."""

    window: int = 10
    """readings that are judged"""
    share: float = 0.2
    """the share of the time from which on it is worth a word"""

    def diagnose(self, history: History) -> list[Finding]:
        shares = history.series("data_wait_share", self.window)
        if len(shares) < self.window or statistics.median(shares) < self.share:
            return []
        share, waits = statistics.median(shares), history.series("data_wait_seconds", self.window)
        sentence = (
            f"{share:.0%} of the time goes into waiting for data. Give data.workers more processes, keep the cache on "
            "a faster disk, or make the batch's rows cheaper to read"
        )
        return [
            Finding(
                name=self.name(),
                step=history.steps("data_wait_share", 1)[0],
                severity="warning",
                sentence=sentence,
                evidence={"data_wait_share": share, "data_wait_seconds": statistics.median(waits) if waits else 0.0},
            )
        ]
