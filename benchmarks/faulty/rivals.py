"""Who else looks after a run: random actions, always halving the rate, ReduceLROnPlateau with early stopping.

They are policies put in the place of danlu's, and see what it sees. SageMaker Debugger's rules, which only stop a run,
watch the run that nobody looks after: see `watch`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from danlu.control.base import Past
from danlu.control.policy import Decision, Policy
from danlu.core.action import Action, QuarantineData, Reinitialise, Rollback, SetDial, Stop
from danlu.core.clock import Clock
from danlu.core.finding import Finding
from danlu.core.seeds import seed_of
from danlu.train.engine import Engine

MOST_ACTIONS = 16
PATIENCE_SHARE = 0.08
"""of the budget between two actions: what a controller of danlu's waits for its verdict"""


class Rival(Policy):
    """A policy of the benchmark's own beside the guards."""

    def __init__(self, engine: Engine) -> None:
        super().__init__("off")
        self.engine, self.factor, self.acted_at = engine, 1.0, list[float]()

    def answer(self, findings: Sequence[Finding], clock: Clock, dials: Mapping[str, float], past: Past) -> list[Any]:
        said = super().answer(findings, clock, dials, past)
        mine = [
            Decision(action=action, by=type(self).__name__.lower(), apply=True) for action in self.wish(findings, clock)
        ]
        return [*said, *mine]

    def wish(self, findings: Sequence[Finding], clock: Clock) -> list[Action]:
        raise NotImplementedError

    def may_act(self, findings: Sequence[Finding], clock: Clock) -> bool:
        """Something is wrong, and its last action is some steps ago."""
        rested = not self.acted_at or clock.progress - self.acted_at[-1] >= PATIENCE_SHARE
        may = rested and len(self.acted_at) < MOST_ACTIONS and any(finding.severity != "note" for finding in findings)
        if may:
            self.acted_at.append(clock.progress)
        return may

    def turn(self, factor: float) -> list[Action]:
        self.factor *= factor
        return [SetDial(dial="learning_rate", kind="scale", number=self.factor, because="a rival's rule")]


class Halving(Rival):
    """Whatever is found, the rate is halved."""

    def wish(self, findings: Sequence[Finding], clock: Clock) -> list[Action]:
        return self.turn(0.5) if self.may_act(findings, clock) else []


class Random(Rival):
    """Whatever is found, one of the actions by chance, with settings by chance."""

    def wish(self, findings: Sequence[Finding], clock: Clock) -> list[Action]:
        if not self.may_act(findings, clock):
            return []
        rng = np.random.default_rng(seed_of(self.engine.plan.seed, "rival", len(self.acted_at)))
        choices: Sequence[Callable[[], list[Action]]] = (
            lambda: self.turn(0.5),
            lambda: self.turn(2.0),
            lambda: self._other(rng),
            lambda: [Rollback()],
            lambda: [Reinitialise()],
            lambda: [QuarantineData(example_ids=tuple(rng.integers(self._rows(), size=16).tolist()))],
            lambda: [Stop(because="by chance", restore_best=True)],
        )
        return choices[int(rng.integers(len(choices)))]()

    def _rows(self) -> int:
        return len(self.engine.loader.examples)

    def _other(self, rng: np.random.Generator) -> list[Action]:
        names = [name for name in self.engine.dials.names if name != "learning_rate"]
        return [SetDial(dial=str(rng.choice(names)), kind="scale", number=float(rng.choice([0.5, 2.0])))]


class Plateau(Rival):
    """torch's ReduceLROnPlateau (factor 0.1; patience 2 of 12 evaluations) and early stopping (patience 4)."""

    best, since = math.inf, 0
    seen: object = None

    def wish(self, findings: Sequence[Finding], clock: Clock) -> list[Action]:
        evaluation = self.engine.evaluation
        if evaluation is None or evaluation is self.seen:
            return []
        self.seen, score = evaluation, evaluation.metrics.get("loss", evaluation.score)
        if score < self.best * (1 - 1e-4):
            self.best, self.since = score, 0
            return []
        self.since += 1
        if self.since > 4:
            return [Stop(because="no better evaluation", restore_best=True)]
        return self.turn(0.1) if self.since == 3 else []


POLICIES: Mapping[str, Callable[[Engine], Policy]] = {"random": Random, "halving": Halving, "plateau": Plateau}
