"""Weights & Biases."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from danlu.core.extras import need
from danlu.core.journal import Record, number
from danlu.monitor.trackers.base import Follower, Tracker, numbers_of, text_of


class Wandb(Tracker):
    """Follows a run on W&B, as `wandb login` and the WANDB_ variables have it; WANDB_MODE=offline writes files only.

    A resumed run goes on in the same W&B run; what it does again is not written twice, for W&B takes no step back.
    """

    library: ClassVar[str] = "wandb"

    project: str = "danlu"
    """the project that the run belongs to"""

    def follow(self, *, folder: Path, name: str, recipe: Mapping[str, object]) -> Follower:
        wandb = need("wandb", extra="wandb")
        folder.mkdir(parents=True, exist_ok=True)
        # the same folder is the same run, also after a resume
        run_id = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
        settings = wandb.Settings(console="off", silent=True)
        run = wandb.init(
            project=self.project,
            name=name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=dict(recipe),
            settings=settings,
        )
        return _Run(run)


class _Run:
    def __init__(self, run: Any) -> None:
        self._run = run
        self._exit_code = 0

    def __call__(self, record: Record) -> None:
        step = int(number(record["step"]))
        values: dict[str, object] = dict(numbers_of(record))
        text = text_of(record)
        if text is not None:
            values[text[0]] = text[1]
        if values:
            self._run.log(values, step=step)
        if record["kind"] == "end":
            self._exit_code = 1 if record.get("status") == "failed" else 0

    def close(self) -> None:
        self._run.finish(exit_code=self._exit_code)
