"""Parameters that ought to be trained and are not."""

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, blocks


class FrozenParameters(Diagnosis):
    """Found when half of a layer's parameters, or more, cannot change and nobody asked for that:

    * they have gradients, and the optimiser does not know them;
    * they have none, and a block of the same stack below them does: nobody freezes the upper block alone.

    Frozen layers below trained ones are told as a note: models are fine-tuned like this. What the recipe itself freezes
    (adapters, techniques) is never told.
    """

    share: float = 0.5
    """of a layer's parameters"""

    def diagnose(self, history: History) -> list[Finding]:
        looked = history.steps("gradients_kept", 1)
        forgotten, frozen = (
            (self._newest(history, name, looked[0]) for name in ("forgotten", "frozen")) if looked else ({}, {})
        )
        if not forgotten and not frozen:
            return []
        trained = [layer for layer in history.parts("layer_grad_norm") if layer not in frozen]
        known = blocks([*trained, *(layer for layer in frozen if layer not in trained)])
        above = [
            layer
            for stack in known
            for at, layer in enumerate(stack)
            if layer in frozen and set(stack[:at]) & set(trained)
        ]
        evidence = {f"forgotten/{layer}": value for layer, value in forgotten.items()}
        evidence |= {f"frozen/{layer}": value for layer, value in frozen.items()}
        if not forgotten and not above:
            sentence = f"These layers are not trained: {_listed(frozen)}. All well, if that is meant"
            return self.found(looked[0], sentence, evidence, severity="note")
        reason = "the optimiser was never given their parameters" if forgotten else "requires_grad is off"
        names = _listed(forgotten or above)
        sentence = (
            f"{names} cannot learn: {reason}. The rest of the model trains around what chance put there. Mend the "
            "model or the optimiser's parameter groups and start anew"
        )
        return self.found(looked[0], sentence, evidence)

    def _newest(self, history: History, name: str, step: int) -> dict[str, float]:
        parts = history.parts(name)
        return {
            layer: values[0]
            for layer, values in parts.items()
            if values[0] >= self.share and history.steps(f"{name}/{layer}", 1)[0] == step
        }


def _listed(layers: object) -> str:
    names = list(layers)  # type: ignore[call-overload]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
