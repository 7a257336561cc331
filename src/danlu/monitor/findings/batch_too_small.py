"""The batch is so small that its gradient is mostly noise."""

import statistics

from danlu.core.action import SetDial
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, level


class BatchTooSmall(Diagnosis):
    """Found when a step sees a handful of examples and gradients in a row have next to nothing in common:

        batch_examples ≤ examples, tokens a step ≤ tokens,    median gradient_cosine < cosine

    By c = |G|² / (|G|² + tr(Σ)/B), B_noise = B (1 − c)/c: below c = 0.15 the noise scale is above six batches, and a
    larger batch makes each step nearly that much better (McCandlish et al. 2018, eq. 2.9 and figure 3).
    """

    examples: float = 4.0
    """examples of a step"""
    tokens: float = 1024.0
    """tokens of a step; a few long documents are batch enough"""
    cosine: float = 0.15
    """of the angle between gradients in a row"""
    window: int = 12
    """readings that are judged"""

    def diagnose(self, history: History) -> list[Finding]:
        cosines, batch = history.series("gradient_cosine", 2 * self.window), level(history, "batch_examples")
        if len(cosines) < self.window or not batch <= self.examples:
            return []
        rates = [level(history, name, 5) for name in ("tokens_per_second", "examples_per_second")]
        tokens = batch * rates[0] / rates[1] if rates[1] else 0.0
        cosine = statistics.median(cosines)
        if not cosine < self.cosine or tokens > self.tokens:
            return []
        noise = batch * (1 - max(cosine, 0.01)) / max(cosine, 0.01)
        sentence = (
            f"A step sees {batch:.0f} examples, and the gradients of steps in a row have nearly nothing in common "
            f"(cosine {cosine:.2f}): mostly noise. A batch of about {noise:.0f} "
            "examples would be worth its cost; raise the learning rate with it"
        )
        larger = SetDial(
            because="the gradient is mostly noise",
            dial="batch_examples",
            kind="set",
            number=float(min(64, max(16, round(noise)))),
        )
        evidence = {"batch_examples": batch, "gradient_cosine": cosine, "noise_scale": noise}
        return self.found(history.steps("gradient_cosine", 1)[0], sentence, evidence, suggests=(larger,))
