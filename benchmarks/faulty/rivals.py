"""Who else looks after a run: random actions, always halving the rate, ReduceLROnPlateau with early stopping.

They are policies put in the place of danlu's. SageMaker Debugger's rules, which only stop a run, watch the run that
nobody looks after: see `watch`.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from danlu.control.policy import Decision, Policy
from danlu.core.action import Action, QuarantineData, Rollback, SetDial, Stop
from danlu.core.clock import Clock
from danlu.core.dials import Dials
from danlu.core.finding import Finding
from danlu.core.seeds import seed_of
from danlu.train.engine import Engine


class Rival(Policy):
    """A policy of the benchmark's own beside the guards."""

    def __init__(self, engine: Engine) -> None:
        super().__init__("off")
        self.engine, self.factor, self.acted = engine, 1.0, 0

    def decide(self, findings: Sequence[Finding], clock: Clock, dials: Dials) -> list[Decision]:
        wanted = self.wish(findings, clock, dials)
        mine = [Decision(action=action, by=type(self).__name__.lower(), apply=True) for action in wanted]
        return [*super().decide(findings, clock, dials), *mine]

    def wish(self, findings: Sequence[Finding], clock: Clock, dials: Dials) -> list[Action]:
        raise NotImplementedError

    def turn(self, factor: float) -> list[Action]:
        self.factor *= factor
        return [SetDial(dial="learning_rate", kind="scale", number=self.factor, because="a rival's rule")]


class Halving(Rival):
    """Whatever is found, the rate is halved."""

    def wish(self, findings: Sequence[Finding], clock: Clock, dials: Dials) -> list[Action]:
        return self.turn(0.5) if _serious(findings) else []


class Random(Rival):
    """Whatever is found, one of the actions by chance, with settings by chance."""

    def wish(self, findings: Sequence[Finding], clock: Clock, dials: Dials) -> list[Action]:
        if not _serious(findings):
            return []
        rng = np.random.default_rng(seed_of(self.engine.plan.seed, "rival", clock.step, self.acted))
        self.acted += 1
        choices: Sequence[Callable[[], list[Action]]] = (
            lambda: self.turn(0.5),
            lambda: self.turn(2.0),
            lambda: self._other(dials, rng),
            lambda: [Rollback()],
            lambda: [
                QuarantineData(example_ids=tuple(rng.integers(len(self.engine.loader.examples), size=16).tolist()))
            ],
            lambda: [Stop(because="by chance", restore_best=True)],
        )
        return choices[int(rng.integers(len(choices)))]()

    def _other(self, dials: Dials, rng: np.random.Generator) -> list[Action]:
        names = [name for name in dials.names if name != "learning_rate"]
        return [SetDial(dial=str(rng.choice(names)), kind="scale", number=float(rng.choice([0.5, 2.0])))]


class Plateau(Rival):
    """torch's ReduceLROnPlateau (factor 0.1; patience 2 of 12 evaluations) and early stopping (patience 4)."""

    best, since = math.inf, 0
    seen: object = None

    def wish(self, findings: Sequence[Finding], clock: Clock, dials: Dials) -> list[Action]:
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


def _serious(findings: Sequence[Finding]) -> bool:
    return any(finding.severity != "note" for finding in findings)


POLICIES: Mapping[str, Callable[[Engine], Policy]] = {"random": Random, "halving": Halving, "plateau": Plateau}
