"""Evaluate: a model's metrics on any data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from danlu.core.errors import RequestError
from danlu.data.loader import batches
from danlu.data.sampler import BatchSize
from danlu.dist.world import World
from danlu.models.forward import Forward
from danlu.models.hardware import pick_precision
from danlu.stages.run_folder import write_atomically
from danlu.stages.trained import OpenModel, open_model
from danlu.tasks.base import Evaluator
from danlu.train.evaluation import gathered
from danlu.train.stepper import LossModule

BATCH_TOKENS = 8192


def evaluate(
    model: str | Path,
    *,
    data: str,
    out: Path | None = None,
    task: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    precision: str = "fp32",
    overrides: Mapping[str, object] | None = None,
) -> dict[str, float]:
    """The metrics of `model` on every example of `data`, by their names; for text: loss, perplexity, bits per byte.

    Args:
        model: a run folder, a model's folder, a .gguf file or a hub name.
        data: a source as in a recipe's `data.train`.
        out: where to write them as JSON, too, with tables such as a confusion matrix; it appears whole, at the end.
        task: what the model is for, where danlu.json does not say.
        batch_tokens: tokens (or whatever the examples' length is measured in) computed at once.
        overrides: keys of `data` that differ from the model's training, such as columns or context; keys of the task
            with `task.` before them.

    Raises:
        RequestError: there is no such model, or `out` cannot be written.
        DataError: the data cannot be used.
    """
    asked = {"task": task, "batch_tokens": batch_tokens, "precision": precision, "overrides": overrides}
    return evaluated(model, data=data, out=out, **asked).metrics  # type: ignore[arg-type]


class Found(NamedTuple):
    """An evaluation, and how the model stands against another (see `tasks.base.Evaluator.compare`)."""

    metrics: dict[str, float]
    tables: dict[str, object]
    against: dict[str, Mapping[str, float]]


def evaluated(
    model: str | Path,
    *,
    data: str,
    against: str | Path | None = None,
    out: Path | None = None,
    task: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    precision: str = "fp32",
    overrides: Mapping[str, object] | None = None,
) -> Found:
    """As `evaluate`, with the tables, and compared with the model `against` on the same rows.

    Raises:
        RequestError: as `evaluate`; or models of this task cannot be compared.
        DataError: as `evaluate`; or the two read different rows.
    """
    if out is not None:
        check_writable(out)
    asked = overrides or {}
    ours = _measured(open_model(model, task=task, options=_of_task(asked)), data, batch_tokens, precision, asked)
    found = Found(ours.result(), ours.tables(), {})
    if against is not None:
        other = open_model(against, task=task, options=_of_task(asked))
        compared = ours.compare(_measured(other, data, batch_tokens, precision, asked))
        if not compared:
            mend = "Evaluate each by itself"
            raise RequestError("models of this task cannot be compared", where="--against", mend=mend)
        found = found._replace(against=compared)
    if out is not None:
        told = {name: part for name, part in found._asdict().items() if part or name == "metrics"}
        write_atomically(out, json.dumps({"model": str(model), "data": data, **told}, indent=2) + "\n")
    return found


def _of_task(overrides: Mapping[str, object]) -> dict[str, object]:
    return {name.removeprefix("task."): value for name, value in overrides.items() if name.startswith("task.")}


def _measured(
    opened: OpenModel, data: str, batch_tokens: int, precision: str, overrides: Mapping[str, object]
) -> Evaluator:
    of_data = {name: value for name, value in overrides.items() if not name.startswith("task.")}
    examples = opened.task.prepare_eval(opened.data_config(data, of_data), data, opened.tools)
    module = LossModule(Forward(opened.model), opened.task).to(opened.device)
    rows = batches(examples, opened.task.collate, size=BatchSize(tokens=batch_tokens))
    world, kind = World(device=opened.device), pick_precision(precision, opened.device)
    return gathered(module, opened.task, rows, world=world, precision=kind)


def check_writable(out: Path) -> None:
    """Says so before the work, not after it, when `out` cannot be written.

    Raises:
        RequestError: its folder does not exist, or it is a folder itself.
    """
    if out.is_dir():
        raise RequestError("this is a folder", where=str(out), mend="Give the name of a file")
    if not out.absolute().parent.is_dir():
        raise RequestError("its folder is not there", where=str(out), mend=f"Make it: mkdir -p {out.parent}")
