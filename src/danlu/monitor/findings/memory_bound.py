"""The memory is nearly full."""

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class MemoryBound(Diagnosis):
    """Found when the run's peak is nearly all the memory there is, or a micro-batch had to be made smaller:

        memory_share ≥ share,    or    micro_batch_tokens fell

    A warning when memory ran out, a note before: nothing is wrong yet, but longer rows would not fit.
    """

    share: float = 0.95
    """of the memory"""

    def diagnose(self, history: History) -> list[Finding]:
        sizes, shares = history.series("micro_batch_tokens"), history.series("memory_share", 1)
        if len(sizes) > 1 and sizes[-1] < sizes[-2]:
            sentence = (
                f"Memory ran out: a micro-batch now holds at most {sizes[-1]:.0f} tokens instead of {sizes[-2]:.0f}. "
                "The batch is what it was, in more pieces, so results do not change; the steps take a little longer"
            )
            evidence = {"micro_batch_tokens": sizes[-1], "before": sizes[-2]}
            return self.found(history.steps("micro_batch_tokens", 1)[0], sentence, evidence)
        if not shares or shares[0] < self.share:
            return []
        sentence = (
            f"The run has used {shares[0]:.0%} of the memory. A smaller micro-batch (train.micro_batch), bf16 or "
            "techniques.activation_checkpointing make room"
        )
        step = history.steps("memory_share", 1)[0]
        return self.found(step, sentence, {"memory_share": shares[0]}, severity="note")
