"""Some classes are far rarer than others."""

from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class ClassImbalance(Diagnosis):
    """Found when the most frequent class has `ratio` times as many examples as the rarest, among enough examples.

    With hundreds of classes that is how the world is, and it is not told.
    """

    ratio: float = 20.0
    """most frequent over rarest"""
    a_class: float = 20.0
    """examples that a class has on average, before anything is said"""
    classes: int = 50
    """at most so many"""

    def diagnose(self, history: History) -> list[Finding]:
        names = ("class_ratio", "num_classes", "examples_known")
        if any(not history.steps(name, 1) for name in names):
            return []
        ratio, classes, known = (history.series(name, 1)[0] for name in names)
        if ratio < self.ratio or classes > self.classes or known < self.a_class * classes:
            return []
        sentence = (
            f"The most frequent class has {ratio:.0f} times as many examples as the rarest: a model may ignore the "
            "rare one and still look good. Sample classes alike or weigh them, and judge by balanced accuracy or "
            "macro F1"
        )
        evidence = {"class_ratio": ratio, "num_classes": classes, "examples_known": known}
        return self.found(history.steps("class_ratio", 1)[0], sentence, evidence)
