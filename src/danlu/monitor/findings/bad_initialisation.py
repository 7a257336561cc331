"""The model starts out far worse than guessing."""

from danlu.core.action import Reinitialise
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class BadInitialisation(Diagnosis):
    """Found when the loss before the first step is several times that of guessing: first loss > times · log C.

    A model that knows nothing should give all classes about alike; a loss far above log C means outputs that are large
    and wrong, as from initial weights that are too large.
    """

    times: float = 8.0
    """the loss of guessing"""

    def diagnose(self, history: History) -> list[Finding]:
        chance, losses = history.series("chance_loss", 1), history.series("loss")
        if not chance or len(losses) != 1 or not losses[0] > self.times * chance[0]:
            return []
        values = {layer: entry[-1] for layer, entry in history.parts("activation_rms").items()}
        sizes = f" (what enters the activations grows up to {max(values.values()):.3g})" if values else ""
        sentence = (
            f"The loss starts at {losses[0]:.4g}, and guessing costs {chance[0]:.4g}: the outputs are large and wrong"
            f"{sizes}. The initial weights are too large; a usual initialisation or a lower learning rate at "
            "first helps"
        )
        evidence = {"loss": losses[0], "chance_loss": chance[0]}
        evidence |= {f"activation_rms/{layer}": value for layer, value in values.items()}
        anew = Reinitialise(because="the initial weights are too large")
        return self.found(history.steps("loss", 1)[0], sentence, evidence, suggests=(anew,))
