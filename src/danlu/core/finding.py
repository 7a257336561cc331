"""Readings (numbers that probes took) and findings (diagnoses that rest on them)."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from danlu.core.action import Action


@dataclasses.dataclass(frozen=True, kw_only=True)
class Readings:
    """What the probes read at one step: name → number. Names are `probe` or `probe/part`, units in the name.

    `examples` are ids of examples by what they were noted for, worst first; mostly there are none.
    """

    step: int
    values: Mapping[str, float]
    examples: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of one evaluation of the validation data, by name; `judged` names the one that says what is best."""

    step: int
    metrics: Mapping[str, float]
    judged: str
    better: Literal["lower", "higher"]

    @property
    def score(self) -> float:
        """The judged metric with its sign turned so that lower is better."""
        value = self.metrics[self.judged]
        return value if self.better == "lower" else -value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A named diagnosis. `sentence` is for a learner; `evidence` holds the readings that it rests on.

    `example_ids` are the examples that it accuses, if it does, worst first.
    """

    name: str
    step: int
    severity: Literal["note", "warning", "serious"]
    sentence: str
    evidence: Mapping[str, float]
    suggests: tuple[Action, ...] = ()
    example_ids: tuple[int, ...] = ()
