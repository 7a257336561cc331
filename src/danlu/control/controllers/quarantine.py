"""Leaves examples out that were found to be bad."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Expectation, QuarantineData


class Quarantine(Controller):
    """Answers findings that name examples: they are not drawn from now on. Expected: validation gets no worse."""

    answers: ClassVar[tuple[str, ...]] = ("bad_examples", "label_noise", "leakage")
    order: ClassVar[int] = 40

    max_actions: int = 4
    """how often it may act in one run"""

    def decide(self, now: Situation) -> list[Action]:
        after = now.steps(0.1, least=50)
        name = f"valid/{now.past.evaluations[-1].judged}" if now.past.evaluations else None
        better = now.past.evaluations[-1].better if now.past.evaluations else "lower"
        expects = name and Expectation(
            reading=name, direction="down" if better == "lower" else "up", by=-0.1, after=after
        )
        return [
            QuarantineData(
                example_ids=tuple(sorted(finding.example_ids)),
                because=finding.name.replace("_", " "),
                expects=expects or None,
            )
            for finding in now.findings
            if finding.example_ids
        ]
