"""Goes back and warms the learning rate up again."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Expectation, Rollback, SetDial


class Rewarm(Controller):
    """Answers a run that goes wrong in its first tenth: back to the beginning, and a rate that rises from nothing.

    Models with the norm after each block need it (Xiong et al. 2020, On Layer Normalization in the Transformer
    Architecture, section 3): their gradients are large near the output before training has settled. Asked before
    `rewind_and_halve`, once; if the run goes wrong again, the rate itself is too high.
    """

    answers: ClassVar[tuple[str, ...]] = ("divergence", "nan_loss", "exploding_gradients", "vanishing_gradients")
    order: ClassVar[int] = 15

    max_actions: int = 1
    """how often it may act in one run"""
    early: float = 0.1
    """the share of the run within which it is thought of"""

    def decide(self, now: Situation) -> list[Action]:
        rates = now.past.series("learning_rate")
        began_warm = bool(rates) and rates[0] >= 0.5 * max(rates)
        grave = [finding for finding in now.findings if finding.name != "nan_loss" or finding.severity == "serious"]
        if now.clock.progress > self.early or not grave or not began_warm or "learning_rate" in now.turned:
            return []
        because = f"{grave[0].name.replace('_', ' ')} at the start, without a warm-up"
        warm = now.steps(0.05, least=20)
        expects = Expectation(reading="loss", by=0.0, after=2 * warm)
        return [
            Rollback(because=because),
            SetDial(
                because=because,
                dial="learning_rate",
                kind="scale",
                number=1.0,
                begin=0.0,
                over=warm,
                expects=expects,
            ),
        ]
