"""Regularisation keeps the model from learning."""

import math
import statistics

from danlu.core.action import Rollback
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, heavy, level, looks


class OverRegularised(Diagnosis):
    """Found in one of three ways:

    * noise in training (dropout): at the last `patience` evaluations the model did much better at rest than in
    training,

        (train − valid) / (first loss − valid) ≥ gap    and    valid > (1 − learnt) · first loss

    * decay: the weights shrink to a part of what they were, and the loss is no better than it was before:

        median over layers of weight_rms < shrunk · its peak,    loss > share · first loss or loss > its best + 10 %

    * a dial far above the usual (`findings/base.HEAVY`) while next to nothing was learnt in `at_least` steps:

        loss > (1 − started) · first loss

    Label smoothing and augmentation raise the training loss too; they alone seldom eat that much of the gain.
    """

    patience: int = 3
    """evaluations in a row"""
    gap: float = 0.25
    """of what was gained"""
    learnt: float = 0.5
    """gain beyond which there is nothing to complain of"""
    shrunk: float = 0.5
    """of the weights' size"""
    share: float = 0.6
    """of the loss at the start"""
    at_least: int = 30
    """steps after which a model has learnt something"""
    started: float = 0.05
    """share of the first loss that it has gained by then"""

    def diagnose(self, history: History) -> list[Finding]:
        first = (
            [min((*history.series("loss")[:1], *history.series("chance_loss", 1)))] if history.series("loss") else []
        )
        if not first or not math.isfinite(first[0]):
            return []
        return (
            self._held_back(history, first[0]) or self._shrunk(history, first[0]) or self._too_heavy(history, first[0])
        )

    def _held_back(self, history: History, first: float) -> list[Finding]:
        gaps, valid = [], math.nan
        for entry in history.evaluations[-self.patience :]:
            train = history.until("loss", entry.step, 2)
            valid = entry.metrics.get("loss", math.nan)
            if train and statistics.fmean(train) > 1.05 * first and valid < 0.95 * statistics.fmean(train):
                gaps.append(math.inf)  # in training it is worse than guessing, and at rest it is not
                continue
            if not train or not first - valid > 0.1 * abs(first) or valid <= (1 - self.learnt) * first:
                return []
            gaps.append((statistics.fmean(train) - valid) / (first - valid))
        if len(gaps) < self.patience or not min(gaps) >= self.gap:
            return []
        sentence = (
            f"In training the model does much worse than at rest ({level(history, 'loss', 2):.4g} against "
            f"{valid:.4g}): so much is dropped or disturbed that it can hardly learn. Lower dropout, "
            "smoothing or augmentation"
        )
        evidence = {"gap": statistics.median(gaps), "loss": level(history, "loss", 2), "valid_loss": valid}
        return self.found(history.evaluations[-1].step, sentence, evidence)

    def _shrunk(self, history: History, first: float) -> list[Finding]:
        sizes, losses = [value for _, value in looks(history, "weight_rms")], history.series("loss")
        if len(sizes) < 4 or len(losses) < 10 or not sizes[-1] < self.shrunk * max(sizes) or sizes[-1] > sizes[-2]:
            return []
        best = min(statistics.median(losses[at : at + 3]) for at in range(0, len(losses) - 2, 3))
        now = level(history, "loss", 5)
        if not now > min(self.share * first, 1.1 * best):
            return []
        sentence = (
            f"The weights have shrunk to {sizes[-1] / max(sizes):.0%} of their size, and the loss is {now:.4g}, no "
            f"better than {best:.4g} before: they are decayed faster than they learn. Lower the weight decay"
        )
        evidence = {"weight_rms": sizes[-1], "weight_rms_before": max(sizes), "loss": now, "best_loss": best}
        back = Rollback(because="the weights were decayed away", skip_data=False)
        return self.found(history.steps("loss", 1)[0], sentence, evidence, suggests=(back,))

    def _too_heavy(self, history: History, first: float) -> list[Finding]:
        high, now, step = heavy(history, 1), level(history, "loss", 5), history.steps("loss", 1)[0]
        if not high or step < self.at_least or not now > (1 - self.started) * first:
            return []
        dial, number = next(iter(high.items()))
        sentence = (
            f"{dial.replace('_', ' ')} stands at {number:g}, far beyond the usual, and the loss is {now:.4g} after "
            f"{step} steps, where guessing costs {first:.4g}: the model is held back from learning anything. Lower it"
        )
        evidence = {**{f"dial/{name}": value for name, value in high.items()}, "loss": now, "first_loss": first}
        back = Rollback(because="the weights were decayed away", skip_data=False)
        return self.found(step, sentence, evidence, suggests=(back,) if "weight_decay" in high else ())
