"""A layer whose units never fire."""

from danlu.core.action import Reinitialise
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class DeadUnits(Diagnosis):
    """Found when nearly all units of a layer gave nothing for any row, at two looks in a row:

        dead_units/LAYER ≥ share, twice

    A dead unit has no gradient, so it stays dead. Up to a third of dead units is usual with ReLU.
    """

    share: float = 0.9
    """of a layer's units"""

    def diagnose(self, history: History) -> list[Finding]:
        looks = history.parts("dead_units", last=2)
        dead = {layer: values for layer, values in looks.items() if len(values) == 2 and min(values) >= self.share}
        if not dead:
            return []
        layer, values = max(dead.items(), key=lambda entry: entry[1][-1])
        sentence = (
            f"{values[-1]:.0%} of the units of {layer} give nothing, whatever comes in: without an output they have no "
            "gradient either, and stay dead. Look at that layer's biases and initial weights, or at a learning rate "
            "that threw them there"
        )
        evidence = {f"dead_units/{name}": values[-1] for name, values in dead.items()}
        anew = Reinitialise(because=f"the units of {layer} are dead", modules=tuple(dead))
        step = history.steps(f"dead_units/{layer}", 1)[0]
        return self.found(step, sentence, evidence, severity="serious", suggests=(anew,))
