"""Action: what a controller or a technique may ask the engine to do, as data, applied at a step boundary."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from danlu.core.config import Config


class Expectation(Config):
    """What must be seen for an action to have helped: a reading, which way, how far, after how many steps.

    The level of a reading is the median of its newest few values. With `valid/NAME` it is the metric NAME of the
    newest evaluation. The action helped when, `after` steps later or at the first value after that,

        down:  now ≤ then − by · |then|,        up:  now ≥ then + by · |then|

    A `by` below zero asks only that it did not get much worse.
    """

    reading: str = "loss"
    direction: Literal["down", "up"] = "down"
    by: float = 0.0
    after: int = Field(ge=1)

    def met(self, then: float, now: float) -> bool:
        """Whether the level has gone as expected; what is not finite has not."""
        change = then - now if self.direction == "down" else now - then
        return change >= self.by * abs(then)


class Action(Config):
    """`because` says why in words; `expects` is what it is judged by later, and reverted where it does not come."""

    because: str = ""
    expects: Expectation | None = None


class SetDial(Action):
    """Overrides a dial: `set` to a number, or `scale` the schedule by it. None as number takes the override away.

    With `over` the dial glides there in so many steps, in a straight line from `begin`, or from where it stands.
    """

    dial: str
    kind: Literal["set", "scale"] = "set"
    number: float | None
    over: int = Field(default=0, ge=0)
    begin: float | None = None


class SkipStep(Action):
    """Throws this step's gradient away: no parameter, optimiser state or average changes."""


class Rollback(Action):
    """Puts weights, optimiser and techniques back to where the run was good; the clock and the dials go on.

    A small model keeps its last good state in memory, whichever is asked for; else it is the newest checkpoint or the
    best one. With `skip_data` the data drawn since are not drawn again.
    """

    to: Literal["newest", "best"] = "newest"
    skip_data: bool = True


class QuarantineData(Action):
    """Leaves these examples out from now on; without ids, those of the steps since the last good state.

    With `back` they are let in again.
    """

    example_ids: tuple[int, ...] = ()
    back: bool = False


class Branch(Action):
    """Tries other dial settings from here on a copy of the run, and keeps the best only if it is clearly better.

    The run is forked: once unchanged for `steps` steps, and for each of `tries` as far as that came in the budget.
    Each fork is then trained on with the learning rate falling in a straight line to nothing over `decay_steps` steps,
    for a rate that is still high hides what has been learnt, and judged by its validation loss. The run goes on from
    where the better fork stood before its rate fell. A fork wins when it is better than the unchanged one by `gain`.
    """

    tries: tuple[tuple[SetDial, ...], ...]
    steps: int = Field(ge=1)
    decay_steps: int = Field(default=0, ge=0)
    gain: float = Field(default=0.01, ge=0.0)


class Reinitialise(Action):
    """Draws the weights of these modules anew, as the model's own class initialises them; without names, of all.

    A module is named by its path in the model, or by the end of it.
    """

    modules: tuple[str, ...] = ()


class HalveMicroBatch(Action):
    """Computes half as many rows at a time; the batch, and so what is learnt, stays what it was."""


class AddWorkers(Action):
    """Prepares batches in more threads."""

    workers: int = Field(ge=1)


class Stop(Action):
    """Ends the run. With `restore_best` the model that is written is the best one evaluated, not the last.

    With `next_recipe` nothing in the run could help: what should be changed is written to `next.yaml`.
    """

    restore_best: bool = False
    failed: bool = False
    next_recipe: bool = False


def action_record(action: Action) -> dict[str, object]:
    """An action as the journal holds it: its name and its fields."""
    return {"name": type(action).__name__, **action.model_dump(mode="json")}


def read_action(record: Mapping[str, object]) -> Action:
    """The action that a record of the journal, or of a checkpoint, holds."""
    fields = dict(record)
    kind = next(kind for kind in Action.__subclasses__() if kind.__name__ == fields["name"])
    del fields["name"]
    return kind.model_validate(fields)
