"""Interrupts: a signal, or whoever listens to the journal, ends a run at the next step boundary, with a checkpoint."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """Within it the first SIGINT or SIGTERM is remembered and obeyed at the next step boundary.

    A second one acts at once, as it would without danlu. Outside the main thread, where Python takes no signals,
    nothing changes.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.asked: str | None = None
        self._before: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        """Why to stop; None to go on."""
        return f"signal {self.received.name}" if self.received else self.asked

    def ask(self, reason: str) -> None:
        """Stops the run at the next step boundary; a listener of the journal may call it."""
        self.asked = reason

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._remember)
            except ValueError:
                break
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._restore()

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
