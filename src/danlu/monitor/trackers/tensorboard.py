"""TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from danlu.core.journal import Record, number
from danlu.monitor.trackers.base import Follower, Tracker, flat, numbers_of, text_of


class Tensorboard(Tracker):
    """Writes event files to `tensorboard/` in the run's folder; `tensorboard --logdir runs` shows them."""

    library: ClassVar[str] = "tensorboard"

    def follow(self, *, folder: Path, name: str, recipe: Mapping[str, object]) -> Follower:
        return _Events(folder / "tensorboard", recipe)


class _Events:
    def __init__(self, folder: Path, recipe: Mapping[str, object]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open = lambda purge_step: SummaryWriter(str(folder), purge_step=purge_step)
        self._writer: SummaryWriter | None = None
        self._settings = "\n".join(f"    {key}: {value}" for key, value in flat(recipe).items())

    def __call__(self, record: Record) -> None:
        step = int(number(record["step"]))
        if record["kind"] == "start" and self._writer is None:
            # what a resumed run does again must not stand on the board twice
            self._writer = self._open(step + 1 if record.get("resumed_from") is not None else None)
            self._writer.add_text("recipe", self._settings, step)
        if self._writer is None:
            return
        for name, value in numbers_of(record).items():
            self._writer.add_scalar(name, value, step)
        text = text_of(record)
        if text is not None:
            self._writer.add_text(text[0], text[1], step)
        if record["kind"] in ("evaluation", "end"):
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
