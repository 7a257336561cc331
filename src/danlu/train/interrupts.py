"""Interrupts: SIGINT and SIGTERM end a run at the next step boundary, with a checkpoint."""

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
        self._before: dict[int, Any] = {}

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
