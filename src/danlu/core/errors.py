"""What a person is told when something cannot go on: where it is, what is wrong, how to mend it."""

import difflib
from collections.abc import Iterable


class DanluError(Exception):
    """One clear message and the exit code that goes with it.

    Args:
        problem: what is wrong, one sentence without a full stop.
        where: the place, such as `techniques.dropout.p` or `reviews.csv, row 17, column text`.
        mend: what to do about it, one sentence without a full stop.
    """

    exit_code = 1

    def __init__(self, problem: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.problem, self.where, self.mend = problem, where, mend
        place = f"{where}: " if where else ""
        super().__init__(f"{place}{problem}." + (f" {mend}." if mend else ""))


class RequestError(DanluError):
    """What was asked for cannot be done as asked; nothing was started or written."""

    exit_code = 2


class DataError(RequestError):
    """A source, file, row or field of the data is not as it should be."""


class RunError(DanluError):
    """The run began and cannot go on; the reason is in its journal and summary."""


class OutOfMemoryError(RunError):
    """Not even one row of a batch fits in the memory of the device."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that helps with an unknown name: the likeliest meant, else all that are known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}"
    return "Known are " + ", ".join(names) if names else "None are known here"
