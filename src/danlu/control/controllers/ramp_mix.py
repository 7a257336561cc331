"""Changes the mix of the data's sources, slowly."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Expectation, SetDial


class RampMix(Controller):
    """Answers any finding that suggests other shares of the data's sources (dials `mix/...`): they glide there.

    A sudden change of the data costs what the model has just learnt. Expected: validation gets no worse.
    """

    answers: ClassVar[tuple[str, ...]] = ("distribution_switch", "overfitting", "underfitting")
    order: ClassVar[int] = 24

    max_actions: int = 2
    """how often it may act in one run"""

    def decide(self, now: Situation) -> list[Action]:
        expects = Expectation(reading="valid/loss", by=-0.02, after=now.steps(0.1, least=50))
        return [
            action.model_copy(update={"over": now.steps(0.05, least=20), "expects": expects})
            for finding in now.findings
            for action in finding.suggests
            if isinstance(action, SetDial) and action.dial.startswith("mix/") and action.dial in now.dials
        ]
