"""The batch is so large that most of its examples say the same."""

from danlu.core.action import SetDial
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, level


class BatchTooLarge(Diagnosis):
    """Found when a pass over the data makes only a few steps, and gradients in a row are nearly the same:

        steps a pass ≤ steps,    batch_examples ≥ examples,    gradient_cosine > cosine at the last looks

    By B_noise = B (1 − c)/c, above c = 0.7 the noise scale is below half the batch: half of it would give nearly the
    same step, so that the same data give twice the steps (McCandlish et al. 2018, eq. 2.9).
    """

    steps: float = 4.0
    """steps of a pass"""
    examples: float = 64.0
    """examples of a step"""
    cosine: float = 0.7
    """of the angle between gradients in a row"""
    window: int = 2
    """looks that are judged: where it matters a run has few steps"""

    def diagnose(self, history: History) -> list[Finding]:
        cosines, batch = history.series("gradient_cosine", self.window), level(history, "batch_examples")
        passes, at = history.series("passes", 1), history.steps("passes", 1)
        if len(cosines) < self.window or not passes or not passes[0] or not batch >= self.examples:
            return []
        a_pass, cosine = at[0] / passes[0], min(cosines)
        if a_pass > self.steps or cosine <= self.cosine:
            return []
        sentence = (
            f"A pass over the data makes {a_pass:.1f} steps of {batch:.0f} examples, and gradients in a row are nearly "
            f"the same (cosine {cosine:.2f}): most of the batch only says again what the rest said. A smaller batch "
            "makes more steps of the same data"
        )
        smaller = SetDial(
            because="gradients in a row are nearly the same",
            dial="batch_examples",
            kind="set",
            number=float(max(16, round(min(batch / 16, batch * (1 - cosine) / cosine / 2)))),
        )
        evidence = {"batch_examples": batch, "gradient_cosine": cosine, "steps_a_pass": a_pass}
        return self.found(at[0], sentence, evidence, suggests=(smaller,))
