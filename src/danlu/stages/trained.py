"""A trained model to be used: opened from a run, a folder, a file or the hub, with what it knows of its task."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from danlu.core import discover
from danlu.core.config import read_options
from danlu.core.errors import RequestError
from danlu.data.config import DataConfig
from danlu.models.hardware import pick_device
from danlu.models.save import load_trained, model_place
from danlu.models.writing import context_of
from danlu.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONGEST_CONTEXT = 1024
"""what a model that was not trained by danlu is given at once, however much more it could take"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model in evaluation mode on its device, its tokenizer or processor, its task, and how its data were read."""

    model: "PreTrainedModel"
    tools: Any
    task: Task
    data: Mapping[str, object]
    device: torch.device

    def data_config(self, source: str, overrides: Mapping[str, object]) -> DataConfig:
        """The data settings of its training with `source` in the place of the training data.

        Raises:
            RequestError: `overrides` holds a key or value that data settings do not know.
        """
        context = min(context_of(self.model) or LONGEST_CONTEXT, LONGEST_CONTEXT)
        return read_options(DataConfig, {"context": context, **self.data, "train": source, **overrides})


def open_model(model: str | Path, *, task: str | None = None, options: Mapping[str, object] | None = None) -> OpenModel:
    """Opens a run folder, a model's folder, a .gguf file or a hub name.

    What danlu.json beside the weights says decides the task; a model that was not trained by danlu is taken for a
    language model unless `task` names another. `options` of the task win over those of its training.

    Raises:
        RequestError: there is no model, or no tokenizer or processor with it, or no such task or option.
    """
    place = model_place(model)
    trained = load_trained(place, auto_class=None if task is None else _task_class(task).auto_class)
    notes = trained.notes or {}
    learnt = dict(notes.get("task") or {"kind": "text-generation"})
    kind = str(learnt.pop("kind"))
    if task is not None and task.replace("_", "-") != kind:
        kind, learnt = task, {}
    if trained.tools is None and _task_class(kind).needs_tools:
        raise RequestError(
            "there is no tokenizer or processor beside the model", where=str(place), mend="Copy it into that folder"
        )
    device = pick_device()
    return OpenModel(
        model=trained.model.to(device),  # type: ignore[arg-type]
        tools=trained.tools,
        task=read_options(_task_class(kind), {**learnt, **(options or {})}).for_model(trained.model),
        data=dict(notes.get("data") or {}),
        device=device,
    )


def _task_class(name: str) -> type[Task]:
    return discover.find("danlu.tasks", name, Task, where="task")  # type: ignore[type-abstract]
