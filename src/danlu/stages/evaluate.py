"""Evaluate: a model's metrics on any data."""

import json
from collections.abc import Mapping
from pathlib import Path

from danlu.core.errors import RequestError
from danlu.data.loader import batches
from danlu.data.sampler import BatchSize
from danlu.dist.world import World
from danlu.models.forward import Forward
from danlu.models.hardware import pick_precision
from danlu.stages.run_folder import write_atomically
from danlu.stages.trained import open_model
from danlu.train.evaluation import evaluate as measure
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
        overrides: keys of `data` that differ from the model's training, such as columns or context.

    Raises:
        RequestError: there is no such model, or `out` cannot be written.
        DataError: the data cannot be used.
    """
    if out is not None:
        check_writable(out)
    opened = open_model(model, task=task)
    examples = opened.task.prepare_eval(opened.data_config(data, overrides or {}), data, opened.tools)
    module = LossModule(Forward(opened.model), opened.task).to(opened.device)
    metrics, tables = measure(
        module,
        opened.task,
        batches(examples, opened.task.collate, size=BatchSize(tokens=batch_tokens)),
        world=World(device=opened.device),
        precision=pick_precision(precision, opened.device),
    )
    if out is not None:
        found = {"metrics": metrics, **({"tables": tables} if tables else {})}
        write_atomically(out, json.dumps({"model": str(model), "data": data, **found}, indent=2) + "\n")
    return metrics


def check_writable(out: Path) -> None:
    """Says so before the work, not after it, when `out` cannot be written.

    Raises:
        RequestError: its folder does not exist, or it is a folder itself.
    """
    if out.is_dir():
        raise RequestError("this is a folder", where=str(out), mend="Give the name of a file")
    if not out.absolute().parent.is_dir():
        raise RequestError("its folder is not there", where=str(out), mend=f"Make it: mkdir -p {out.parent}")
