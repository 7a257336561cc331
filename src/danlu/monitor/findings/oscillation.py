"""The run jumps from one side of the valley to the other."""

import statistics

from danlu.core.action import SetDial
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, warmed_up


class Oscillation(Diagnosis):
    """Found when steps in a row pull in opposite directions and the loss does not fall any more:

        median gradient_cosine < cosine over a window,    median loss of its second half ≥ that of its first

    Along a direction of curvature λ, gradient descent multiplies the distance by 1 − ηλ; above ηλ = 1 it changes sides
    at every step, and above 2 it diverges.
    """

    window: int = 12
    """readings that are judged"""
    cosine: float = -0.5
    """of the angle between gradients in a row"""

    def diagnose(self, history: History) -> list[Finding]:
        cosines, losses = history.series("gradient_cosine", self.window), history.series("loss", self.window)
        if len(cosines) < self.window or len(losses) < self.window or not warmed_up(history):
            return []
        cosine, half = statistics.median(cosines), self.window // 2
        before, now = statistics.median(losses[:half]), statistics.median(losses[half:])
        if cosine >= self.cosine or now < before:
            return []
        sentence = (
            f"Steps in a row pull in opposite directions (cosine {cosine:.2f}) and the loss stays at {now:.4g}: the "
            "run jumps across the valley. Lower the learning rate, or let it decay"
        )
        lower = SetDial(because="steps in a row undo each other", dial="learning_rate", kind="scale", number=0.5)
        evidence = {"gradient_cosine": cosine, "loss_before": before, "loss": now}
        return self.found(history.steps("loss", 1)[0], sentence, evidence, suggests=(lower,))
