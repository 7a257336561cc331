"""Ends a run that nothing in it can help, and says what to change."""

from typing import ClassVar

from danlu.control.base import Controller, Situation
from danlu.core.action import Action, Stop


class StopWithCause(Controller):
    """Answers serious findings whose cause lies in the recipe, the model or the data: the end, with a next recipe.

    What is wrong with the architecture or the labels does not get better by training on. A warning is not enough, and
    the best weights so far are kept. Runs that learn something all the same (a layer that is frozen) go on.
    """

    answers: ClassVar[tuple[str, ...]] = ("vanishing_gradients", "shuffled_labels")
    order: ClassVar[int] = 80

    max_actions: int = 1
    """how often it may act in one run"""

    def decide(self, now: Situation) -> list[Action]:
        serious = [finding for finding in now.findings if finding.severity == "serious"]
        if not serious:
            return []
        because = f"{serious[0].name.replace('_', ' ')}: {serious[0].sentence}"
        return [Stop(because=because, restore_best=True, next_recipe=True)]
