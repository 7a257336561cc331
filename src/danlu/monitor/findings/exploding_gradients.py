"""The gradient grows beyond all that the run has seen."""

import math
import statistics

from danlu.core.action import SetDial
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class ExplodingGradients(Diagnosis):
    """Found when the gradient's norm stays far above its usual size and the loss does not fall:

        min of the last `last` norms > factor · median of all before,    loss now ≥ median loss before

    The layer whose gradient grew most since the look before is named. Source: Pascanu et al. 2013, section 2.
    """

    factor: float = 20.0
    """times the usual size"""
    last: int = 3
    """readings in a row"""
    at_least: int = 5
    """readings before these"""

    def diagnose(self, history: History) -> list[Finding]:
        norms, losses = history.series("grad_norm"), history.series("loss")
        if len(norms) < self.at_least + self.last or not all(map(math.isfinite, norms[-self.last :])):
            return []
        usual = statistics.median(filter(math.isfinite, norms[: -self.last])) if any(map(math.isfinite, norms)) else 0.0
        before = [loss for loss in losses[: -self.last] if math.isfinite(loss)]
        if not usual or not before or min(norms[-self.last :]) <= self.factor * usual:
            return []
        if statistics.median(losses[-self.last :]) < statistics.median(before):
            return []
        grown = {
            part: values[-1] / values[0]
            for part, values in history.parts("layer_grad_norm", last=2).items()
            if values[0]
        }
        layer = max(grown, key=grown.__getitem__, default="")
        sentence = (
            f"The gradient has grown from about {usual:.3g} to {norms[-1]:.3g} and the loss does not fall"
            + (f"; most of all in {layer}" if layer else "")
            + ". Clip it (techniques.grad_clip) or lower the learning rate"
        )
        evidence = {
            "grad_norm": norms[-1],
            "usual": usual,
            "loss": losses[-1],
            "loss_before": statistics.median(before),
        }
        lower = SetDial(because="the gradient explodes", dial="learning_rate", kind="scale", number=0.5)
        return self.found(history.steps("grad_norm", 1)[0], sentence, evidence, severity="serious", suggests=(lower,))
