"""A layer whose activation function stands at its bounds."""

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class SaturatedActivations(Diagnosis):
    """Found when most values of a block's sigmoid or tanh lie within 5 % of a bound, at two looks in a row:

        saturated/LAYER ≥ share, twice

    There the function is flat and lets hardly any gradient through. Single layers beside the blocks (poolers, gates)
    are left alone.
    """

    share: float = 0.8
    """of a layer's values"""

    def diagnose(self, history: History) -> list[Finding]:
        looks = history.parts("saturated", last=2)
        full = {layer: values for layer, values in looks.items() if len(values) == 2 and min(values) >= self.share}
        full = {layer: values for layer, values in full.items() if layer.rpartition(".")[2].isdigit()}
        if not full:
            return []
        layer, values = max(full.items(), key=lambda entry: entry[1][-1])
        sentence = (
            f"{values[-1]:.0%} of what the activation of {layer} gives stands at its bounds, where it is flat: hardly "
            "any gradient comes through. Smaller initial weights, a norm before it, or ReLU or GELU instead help"
        )
        evidence = {f"saturated/{name}": values[-1] for name, values in full.items()}
        return self.found(history.steps(f"saturated/{layer}", 1)[0], sentence, evidence)
