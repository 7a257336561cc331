"""The gradient dies out on its way to the first blocks."""

import statistics

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, blocks


class VanishingGradients(Diagnosis):
    """Found when the gradient of a stack's first block is a thousand times smaller than its last one's:

        ‖g_first‖ < ratio · ‖g_last‖, at `looks` looks in a row, and neither is zero

    Source: Hochreiter 1991; Glorot and Bengio 2010. A gradient of exactly zero has another cause (dead or frozen).
    """

    ratio: float = 1e-3
    """first over last"""
    looks: int = 2
    """looks in a row"""

    def diagnose(self, history: History) -> list[Finding]:
        norms = history.parts("layer_grad_norm", last=self.looks)
        for stack in blocks(norms):
            first, last = norms[stack[0]], norms[stack[-1]]
            if len(stack) < 2 or min(len(first), len(last)) < self.looks or min(*first, *last) <= 0:
                continue
            if all(low < self.ratio * high for low, high in zip(first, last, strict=True)):
                sentence = (
                    f"The gradient dies out on its way down: {first[-1]:.2g} at {stack[0]} against {last[-1]:.2g} at "
                    f"{stack[-1]}, so that the first blocks learn nothing. Residual connections, norms, ReLU or GELU "
                    "in place of sigmoid, or fewer layers help; a higher learning rate does not"
                )
                evidence = {
                    f"layer_grad_norm/{layer}": statistics.median(norms[layer]) for layer in (stack[0], stack[-1])
                }
                step = history.steps(f"layer_grad_norm/{stack[0]}", 1)[0]
                return self.found(step, sentence, evidence, severity="serious")
        return []
