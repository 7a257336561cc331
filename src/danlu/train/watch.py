"""Watch: what a run has of diagnosis and control: readings become findings, findings actions, actions verdicts."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from danlu.control.controllers.skip_step import SkipSteps
from danlu.control.policy import Decision, Policy, Verdict
from danlu.core.action import Action, Branch, HalveMicroBatch, Rollback, SkipStep, action_record
from danlu.core.batch import Batch
from danlu.core.finding import Evaluation, Readings
from danlu.monitor.diagnose import Diagnoser
from danlu.monitor.not_finite import as_readings, first_not_finite
from danlu.train.acts import RefusedError, apply
from danlu.train.good import Good
from danlu.train.guard import StepGuard

if TYPE_CHECKING:
    from danlu.train.engine import Engine

_MOST_DRAWN = 1000
"""steps whose examples are remembered, to be named when one of them is skipped"""


_MOST_TRACES = 3
"""steps that are run again in one run, to see what was not finite first"""


class Watch:
    """Belongs to one engine. The first process diagnoses and decides, and all of them obey."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self.diagnoser = Diagnoser()
        self.policy = Policy(engine.plan.control)
        self.good = Good(engine)
        self.guard = self._make_guard()
        self.skipped: list[int] = []
        self.drawn: collections.deque[tuple[int, Tensor]] = collections.deque(maxlen=_MOST_DRAWN)
        self._traced: tuple[dict[str, float], dict[str, tuple[int, ...]]] = ({}, {})
        self._traces_left = _MOST_TRACES
        if self.guard is not None and engine.world.device.type == "cpu":
            engine.stepper.trace = self.trace

    def _make_guard(self) -> StepGuard | None:
        """Watches over single steps, and skips some under `auto`."""
        plan, rules = self.engine.plan, self.policy.member("skip_step")
        if plan.control == "off" or not isinstance(rules, SkipSteps):
            return None
        guard = StepGuard(
            rules, plan.world.device, apply=plan.control == "auto", overflow_is_usual=plan.precision == "fp16"
        )
        self.engine.stepper.guard = guard
        return guard

    def hear(self, news: Readings | Evaluation) -> None:
        """News become findings, and findings actions, as far as the policy lets them."""
        engine, said = self.engine, list[Decision | Verdict]()
        step = engine.clock.step
        if engine.world.is_first:
            for finding in self.diagnoser.hear(news):
                told = dataclasses.asdict(finding)
                suggests = [action_record(action) for action in finding.suggests]
                engine.journal.write("finding", told.pop("step"), **{**told, "suggests": suggests})
            clock = engine.shown_clock()
            dials = engine.dials.read_all(clock)
            said = self.policy.answer(self.diagnoser.standing, clock, dials, self.diagnoser.history)
        said = engine.world.broadcast_object(said)
        for item in said:
            if isinstance(item, Verdict):
                engine.journal.write("verdict", step, **dataclasses.asdict(item))
            else:
                self.obey([item.action], item.by, wanted=item.apply, reverts=item.reverts)
        if isinstance(news, Readings) and engine.plan.control == "auto" and not said:
            self.good.hear(engine, news.values.get("loss", math.nan))

    def trace(self, batch: Batch, again: Callable[[], Tensor]) -> None:
        """Runs a step that was not finite once more, to name the module; the next reading tells it.

        On a CPU every such step is known at once; elsewhere the next one is traced after a reading has shown the first.
        """
        world, step = self.engine.world, self.engine.clock.step + 1
        trouble = next((t for t in world.gather_objects(first_not_finite(self.engine.model, again)) if t), None)
        ids = self.ids_of([step]).get(step, [])
        found = as_readings(step, trouble, ids)
        self._traced = ({**self._traced[0], **found.values}, {**self._traced[1], **found.examples})
        self._traces_left -= 1
        if self._traces_left == 0:
            self.engine.stepper.trace = None

    def with_traced(self, readings: Readings) -> Readings:
        """A reading, and what was traced since the last one."""
        values, examples = self._traced
        self._traced = ({}, {})
        return dataclasses.replace(
            readings, values={**values, **readings.values}, examples={**examples, **readings.examples}
        )

    def obey(self, actions: Sequence[Action], who: str, *, wanted: bool = True, reverts: int | None = None) -> None:
        """Journals actions and, unless they are mere suggestions, applies them at this step boundary."""
        for action in actions:
            step, applied, facts = self.engine.clock.step, wanted, dict[str, object]()
            if isinstance(action, (Branch, Rollback)):
                self.settle_skips()
            try:
                facts = apply(self.engine, action) if wanted else facts
            except RefusedError as error:
                applied, facts = False, {"refused": str(error)}
            fork = facts.pop("fork", None)
            told = facts if reverts is None else {**facts, "reverts": reverts}
            self.engine.journal.write("action", step, action=action_record(action), by=who, applied=applied, **told)
            if "back_to" in facts:
                self.diagnoser.forget_after(int(str(facts["back_to"])))
                self.good.forget()
            if isinstance(action, Branch) and isinstance(fork, dict):
                self.policy.settle(action, fork["choice"])
                self.engine.journal.write(
                    "verdict", self.engine.clock.step, about=step, by=who, action="Branch", **fork
                )

    def tell_halved(self) -> None:
        """Journals that the stepper ran out of memory and went on with fewer rows at a time."""
        engine = self.engine
        action = action_record(HalveMicroBatch(because="memory ran out"))
        tokens = engine.stepper.micro_cost
        engine.journal.write(
            "action", engine.clock.step + 1, action=action, by="stepper", applied=True, micro_batch_tokens=tokens
        )

    @property
    def stuck(self) -> bool:
        """Whether nothing but skipped steps is seen any more."""
        return self.guard is not None and self.guard.stuck

    def settle_skips(self) -> bool:
        """Journals the steps that were skipped since the last time; says whether the newest step was one of them."""
        if self.guard is None:
            return False
        steps = self.guard.skipped()
        for step, ids in self.ids_of(steps).items() if steps else ():
            action = action_record(SkipStep(because="its gradient is no number, or far beyond all that came before"))
            self.engine.journal.write(
                "action", step, action=action, by="skip_step", applied=self.guard.apply, example_ids=ids
            )
        if steps and self._traces_left:
            self.engine.stepper.trace = self.trace
        if self.guard.apply:
            self.skipped += steps
        return bool(self.skipped) and self.skipped[-1] == self.engine.clock.step

    def skipped_since(self) -> list[int]:
        """The steps skipped since the last reading."""
        self.settle_skips()
        steps, self.skipped = self.skipped, []
        return steps

    def hopeless(self) -> bool:
        """Whether the newest steps were all skipped: then what they showed is to be seen."""
        return self.guard is not None and float(self.guard.in_row) >= self.guard.rules.most_in_row

    def ids_of(self, steps: Container[int]) -> dict[int, list[int]]:
        """The examples that were drawn at these steps, over all processes, as far as they are remembered."""
        mine = [(step, ids_B.tolist()) for step, ids_B in self.drawn if step in steps]
        found: dict[int, list[int]] = {}
        for step, ids in itertools.chain.from_iterable(self.engine.world.gather_objects(mine)):
            found.setdefault(step, []).extend(ids)
        return found

    def state_dict(self, *, good: bool) -> dict[str, Any]:
        """For a checkpoint; the diagnoser's memory follows from the journal."""
        return {
            "policy": self.policy.state_dict(),
            "guard": self.guard.state_dict() if self.guard is not None else None,
            "skipped": list(self.skipped),
            "traced": {"values": self._traced[0], "examples": self._traced[1]},
            "traces_left": self._traces_left,
            **({"good": self.good.state_dict()} if good else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.skipped = [int(step) for step in state["skipped"]]
        traced = state["traced"]
        self._traced = (dict(traced["values"]), {name: tuple(ids) for name, ids in traced["examples"].items()})
        self._traces_left = int(state["traces_left"])
        if not self._traces_left:
            self.engine.stepper.trace = None
        if self.guard is not None and state["guard"] is not None:
            self.guard.load_state_dict(state["guard"])
        if "good" in state:
            self.good.load_state_dict(state["good"])
