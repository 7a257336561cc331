"""Case: a task with data and a small untrained model, and a second opinion on its metrics."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.config import DataConfig
from danlu.models.build import build_model
from danlu.models.config import ModelConfig
from danlu.tasks.base import Prepared, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """`reference` computes every metric again from the outputs, by other means than the task does; `asked` are rows
    to predict with `options`."""

    task: Task
    data: DataConfig
    prepared: Prepared
    model: nn.Module
    reference: Callable[[Outputs, Batch], Mapping[str, float]]
    asked: Sequence[Mapping[str, object]] = ()
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)


def make_case(
    task: Task,
    data: DataConfig,
    family: str,
    reference: Callable[[Outputs, Batch], Mapping[str, float]],
    **more: object,
) -> Case:
    """Prepares the data and builds a model of two small layers, in evaluation mode."""
    prepared = task.prepare(data, seed=0, base=None, say=lambda _text: None)
    design = {"family": family, "layers": 2, "width": 32, "heads": 2}
    model = build_model(
        ModelConfig.model_validate({"design": design}),
        auto_class=task.model_class,
        vocab_size=prepared.vocab_size,
        context=prepared.context,
        options=prepared.model_options,
        special_tokens=prepared.special_tokens,
        seed=0,
    ).eval()
    task = task.for_model(model)
    return Case(task=task, data=data, prepared=prepared, model=model, reference=reference, **more)  # type: ignore[arg-type]
