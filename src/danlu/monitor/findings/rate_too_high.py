"""The learning rate is too high: every step throws the weights about."""

from danlu.core.action import Rollback, SetDial
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, level, looks

_USUAL = 0.01


class RateTooHigh(Diagnosis):
    """Found when a step moves the weights by a large part of themselves, again and again, and the loss gains little:

        median over layers of update_ratio > ratio at two of the last looks,    loss > share · first loss

    A step of 7 % undoes in a dozen steps what took hundreds; about 0.1 % is usual, up to 3 % at the start of small
    models. The first two steps, in which adaptive optimisers have seen nothing yet, do not count.
    """

    ratio: float = 0.07
    """‖Δw‖ / ‖w‖ of one step"""
    share: float = 0.5
    """of the loss at the start"""
    among: int = 4
    """looks back"""

    def diagnose(self, history: History) -> list[Finding]:
        seen = [(step, value) for step, value in looks(history, "update_ratio") if step > 2][-self.among :]
        large = [value for _, value in seen if value > self.ratio]
        first, now = history.series("loss")[:1], level(history, "loss")
        if len(large) < 2 or not first or not now > self.share * first[0]:
            return []
        rate, factor = level(history, "learning_rate", 1), max(0.01, min(0.5, _USUAL / max(large)))
        sentence = (
            f"One step moves the weights by {max(large):.0%} of their size, at a learning rate of {rate:.3g}; about "
            f"0.1% is usual. The loss went from {first[0]:.4g} to {now:.4g} only: the rate is too high. Lower it, or "
            "warm up for longer"
        )
        lower = SetDial(because="steps are far too large", dial="learning_rate", kind="scale", number=factor)
        evidence = {"update_ratio": max(large), "learning_rate": rate, "loss": now, "first_loss": first[0]}
        back = Rollback(because="the weights were thrown about", to="best")
        return self.found(history.steps("loss", 1)[0], sentence, evidence, severity="serious", suggests=(back, lower))
