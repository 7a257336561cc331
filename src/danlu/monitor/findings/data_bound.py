"""The model waits for its data."""

import statistics

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class DataBound(Diagnosis):
    """Found when much of the wall time went into waiting for data, in all of the last readings but one or three times
    running:

        second smallest data_starved_share ≥ share, or the last 3 ≥ most,    median data_wait_seconds ≥ seconds

    Time in which the processors were busy with other programs does not count as waiting for data.
    """

    window: int = 5
    """readings that are judged"""
    share: float = 0.25
    """the share of the time from which on it is worth a word"""
    most: float = 0.45
    """the share that three readings are enough for"""
    seconds: float = 0.005
    """waits shorter than this are nobody's trouble"""

    def diagnose(self, history: History) -> list[Finding]:
        name = "data_starved_share" if history.steps("data_starved_share", 1) else "data_wait_share"
        shares, waits = history.series(name, self.window), history.series("data_wait_seconds", self.window)
        often = len(shares) == self.window and sorted(shares)[1] >= self.share
        if (
            not (often or (len(shares) >= 3 and min(shares[-3:]) >= self.most))
            or statistics.median(waits) < self.seconds
        ):
            return []
        share = statistics.median(shares)
        sentence = (
            f"{share:.0%} of the time goes into waiting for data. Give data.workers more processes, keep the cache on "
            "a faster disk, or make the batch's rows cheaper to read"
        )
        evidence = {name: share, "data_wait_seconds": statistics.median(waits)}
        return self.found(history.steps(name, 1)[0], sentence, evidence)
