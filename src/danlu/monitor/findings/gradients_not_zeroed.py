"""Gradients of earlier steps are still there when a step begins."""

from danlu.core.action import Stop
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class GradientsNotZeroed(Diagnosis):
    """Found when the gradients are not zero as a step's first forward begins: each step then adds to all before it."""

    def diagnose(self, history: History) -> list[Finding]:
        kept = history.series("gradients_kept", 1)
        if not kept or not kept[0] > 0:
            return []
        sentence = (
            f"The gradients of earlier steps (norm {kept[0]:.3g}) are still there when a step begins, so that every "
            "step goes along the sum of all gradients so far. Something keeps the optimiser from zeroing them"
        )
        stop = Stop(because="gradients are never zeroed", failed=True)
        step = history.steps("gradients_kept", 1)[0]
        return self.found(step, sentence, {"gradients_kept": kept[0]}, severity="serious", suggests=(stop,))
