"""Action: what a controller or a technique may ask the engine to do, as data, applied at a step boundary."""

from typing import Literal

from danlu.core.config import Config


class Action(Config):
    """`because` says why in words; `verify_after` is the number of steps after which the effect is judged."""

    because: str = ""
    verify_after: int | None = None


class SetDial(Action):
    """Overrides a dial: `set` to a number, or `scale` the schedule by it. None as number takes the override away."""

    dial: str
    kind: Literal["set", "scale"] = "set"
    number: float | None


class SkipStep(Action):
    """Throws this step's gradient away: no parameter, optimiser state or average changes."""


class Rollback(Action):
    """Goes back to the newest good checkpoint (or the best) and, when asked, past the data that was drawn since."""

    to: Literal["newest", "best"] = "newest"
    skip_data: bool = True


class QuarantineData(Action):
    """Leaves these examples out from now on."""

    example_ids: tuple[int, ...]


class Branch(Action):
    """Tries other dial settings from here for some steps, and keeps them only if they are better."""

    dials: dict[str, float]
    steps: int


class Stop(Action):
    """Ends the run. With `restore_best` the model that is written is the best one evaluated, not the last."""

    restore_best: bool = False
    failed: bool = False
