"""The labels have nothing to do with the inputs."""

import statistics

from danlu.core.action import Stop
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History, heavy, level, looks, warmed_up


class ShuffledLabels(Diagnosis):
    """Found when, after two passes over the data, the loss stands where guessing by frequency stands, and the model can
    move:

        (1 − margin) · H ≤ loss ≤ (1 + above) · H,    H = −Σ f log f of the labels,    no longer falling by `still` · H

    on training data (half a window against the half before) and at the last `patience` evaluations alike,

    with no regulariser far above the usual in the last readings, steps of usual size, weights that have not blown up,
    and gradients that reach the first block. Then there is nothing to learn in the labels, at least not for this
    model: they were shuffled, or belong to other rows.
    """

    margin: float = 0.02
    """of the entropy"""
    above: float = 0.05
    """of the entropy; a model that still comes down to it has not had its say"""
    still: float = 0.01
    """of the entropy"""
    patience: int = 3
    """evaluations in a row"""
    half: int = 5
    """readings of half a window"""
    passes: float = 2.0
    """over the data"""
    at_least: int = 60
    """steps before anything is said"""
    quiet: int = 12
    """readings since a regulariser was far above the usual"""

    def diagnose(self, history: History) -> list[Finding]:
        entropy, passes = history.series("label_entropy", 1), level(history, "passes", 1)
        step = history.steps("loss", 1)[0] if history.steps("loss", 1) else 0
        if (
            not entropy
            or not passes >= self.passes
            or step < self.at_least
            or heavy(history, self.quiet)
            or not self._can_move(history)
        ):
            return []
        valid = [entry.metrics["loss"] for entry in history.evaluations[-self.patience :] if "loss" in entry.metrics]
        losses = history.series("loss", 2 * self.half)
        if len(valid) < self.patience or len(losses) < 2 * self.half:
            return []
        then, now = statistics.median(losses[: self.half]), statistics.median(losses[self.half :])
        low, high = (1 - self.margin) * entropy[0], (1 + self.above) * entropy[0]
        most = self.still * entropy[0]
        if not low <= min(now, *valid) <= max(now, *valid) <= high or then - now > most or valid[0] - valid[-1] > most:
            return []
        sentence = (
            f"After {passes:.1f} passes over the data the loss is {now:.4g}, and guessing the labels by their "
            f"frequency costs {entropy[0]:.4g}: the model finds nothing in the inputs that tells the label. The labels "
            "may be shuffled or belong to other rows"
        )
        stop = Stop(because="the labels have nothing to do with the inputs", failed=True)
        evidence = {"loss": now, "label_entropy": entropy[0], "valid_loss": statistics.fmean(valid), "passes": passes}
        return self.found(step, sentence, evidence, severity="serious", suggests=(stop,))

    def _can_move(self, history: History) -> bool:
        moves = [value for step, value in looks(history, "update_ratio") if step > 2]
        sizes = [value for _, value in looks(history, "weight_rms")]
        dead = [values[0] for values in history.parts("dead_units").values()]
        rates = history.series("learning_rate")
        warm = warmed_up(history) or (rates and rates[-1] < rates[0])
        usual = bool(moves) and 1e-3 < max(moves) < 0.05 and sizes[-1] < 3 * sizes[0]
        return bool(warm) and usual and max(dead, default=0.0) < 0.8
