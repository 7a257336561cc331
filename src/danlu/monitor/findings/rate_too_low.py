"""The learning rate is too low: the weights hardly move."""

import statistics

from danlu.core.action import SetDial
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, level, looks, warmed_up

_USUAL = 0.005


class RateTooLow(Diagnosis):
    """Found when a model that starts from nothing has hardly moved and hardly learnt once the rate has warmed up:

        median over layers of update_ratio < ratio,    loss > (1 − drop) · first loss,    first loss ≥ 0.9 log C

    A trained model that is tuned further starts below log C and is left alone: small steps are right for it. Where log
    C is not known, the ratio must be ten times smaller.
    """

    ratio: float = 4e-4
    """‖Δw‖ / ‖w‖ of one step"""
    drop: float = 0.12
    """share of the first loss that must have been gained"""
    at_least: int = 30
    """steps before anything is said"""

    def diagnose(self, history: History) -> list[Finding]:
        seen = [(step, value) for step, value in looks(history, "update_ratio") if step > 2]
        losses = history.series("loss")
        if not seen or not losses or history.steps("loss", 1)[0] < self.at_least or not warmed_up(history):
            return []
        chance, first = history.series("chance_loss", 1), losses[0]
        untrained = bool(chance) and first >= 0.9 * chance[0]
        ratio, now = max(value for _, value in seen[-2:]), level(history, "loss", 5)
        bound = self.ratio if untrained else self.ratio / 10 if not chance else 0.0
        if not 0 < ratio < bound or not (1 - self.drop) * first < now < 1.2 * first:
            return []
        rate = level(history, "learning_rate", 1)
        sentence = (
            f"One step moves the weights by {ratio:.2%} of their size, at a learning rate of {rate:.3g}, and the loss "
            f"is at {now:.4g} after {first:.4g} at the start: the rate is too low. Raise it, ten times at first"
        )
        factor = max(2.0, min(100.0, _USUAL / ratio))
        higher = SetDial(because="the weights hardly move", dial="learning_rate", kind="scale", number=factor)
        evidence = {"update_ratio": ratio, "learning_rate": rate, "loss": now, "first_loss": first}
        evidence["gradient_cosine"] = statistics.median(history.series("gradient_cosine", 10) or (0.0,))
        return self.found(history.steps("loss", 1)[0], sentence, evidence, suggests=(higher,))
