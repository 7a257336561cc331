"""Image classification: which of some classes a picture belongs to."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from danlu.core.batch import Batch
from danlu.core.config import Config, read_options
from danlu.core.errors import RequestError, nearest
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.data.cache import encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.examples import Examples, ExampleSet
from danlu.data.images import (
    ImageEncoder,
    ImageReader,
    Pictures,
    files_digest,
    image_columns,
    located,
    make_processor,
    num_tokens,
    pixel_scale,
    pixel_values,
)
from danlu.data.labelled import Balanced
from danlu.data.labels import LabelReader, scan_labels
from danlu.data.rows import Row
from danlu.data.sources import Source, open_source
from danlu.data.split import split_source
from danlu.models.forward import Forward
from danlu.tasks import _class_metrics as scores
from danlu.tasks._class_evaluator import ClassEvaluator, class_loss
from danlu.tasks._own_metrics import own_metrics
from danlu.tasks.base import Evaluator, Example, Prepared, Task, Tools, shape_of

BATCH_ROWS = 32
SIDE = 64
TOP = 5
MOST_LOOKED_AT = 256
LARGEST_SHOWN = 112
METRICS = (*scores.LABEL_METRICS, f"top{TOP}")


class ImageClassification(Task):
    """Says which of some classes a picture belongs to.

    The loss of a row is -log p(label). Pictures come from folders (ROOT/CLASS/FILE) or from tables with a column of
    paths or of the files' bytes; they are decoded and resized once.
    """

    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    taught: ClassVar[tuple[str, ...]] = ("columns",)

    labels: tuple[str, ...] = ()
    """the classes in their order; when empty, those of data.train, sorted"""
    image_size: int | None = Field(default=None, ge=4)
    """pixels a side; when absent that of the model loaded, or 64 for a model designed here"""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class counts the same in training, however rare it is"""
    judge: str = "loss"
    """the metric that says which evaluation is best, such as accuracy or macro_f1"""
    metrics: tuple[str, ...] = ()
    """metrics of your own, each module:function, called with (probabilities, truth, names of the classes)"""
    num_samples: int = Field(default=8, ge=0)
    """how many validation pictures to show, those that the model gets most wrong"""

    @field_validator("labels")
    @classmethod
    def _differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels) or len(labels) == 1:
            raise ValueError("give two labels or more, each once")
        return labels

    @property
    def judged(self) -> str:
        """The metric named by `judge`."""
        return self.judge

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Lower for errors; metrics of the user's own are taken for scores."""
        return "lower" if self.judge in scores.LOWER_IS_BETTER else "higher"

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """The columns of image and label."""
        return image_columns(fields, told=data.columns, where=where)

    def for_model(self, model: nn.Module) -> Self:
        """With the classes that the model's config names."""
        config: Any = cast(PreTrainedModel, model).config
        return self.model_copy(update={"labels": tuple(config.id2label[at] for at in range(config.num_labels))})

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Finds the classes in data.train, splits it, and decodes and resizes both parts once."""
        scores.torchmetrics()
        known = (*METRICS, *own_metrics(self.metrics))
        if self.judge not in known:
            problem = f"there is no metric {self.judge!r}"
            raise RequestError(problem, where="task.judge", mend=nearest(self.judge, known))
        say(f"reading {', '.join(data.train_sources)}")
        source = open_source(data.train_sources, cache=data.cache)
        train, valid = split_source(source, data.valid, seed)
        columns = self.columns(train.peek()[0].fields, data, source.spec)
        names = self.labels or scan_labels(source, columns["label"], target="label", cache=data.cache).names
        size = (self.image_size, self.image_size) if self.image_size else None
        processor = make_processor(base, size=size, default=SIDE)
        say(f"decoding {train.num_bytes / 1e6:.1f} MB of images")
        skipped: list[Mapping[str, object]] = []
        parts = [_encoded(part, columns, names, processor, data, skipped) for part in (train, valid)]
        shape = parts[0][0]["image"].shape
        return Prepared(
            train=Pictures(Balanced(parts[0]) if self.class_weights == "balanced" else parts[0], processor),
            valid=Pictures(parts[1], processor),
            tools=processor,
            context=num_tokens(*shape[:2]),
            model_options=_model_options(names, processor, None if base else shape[:2]),
            facts={
                "train_examples": len(parts[0]),
                "valid_examples": len(parts[1]),
                "num_labels": len(names),
                "image_height": shape[0],
                "image_width": shape[1],
            },
            skipped=skipped,
            found={"columns": dict(columns.by_role)},
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Decodes `source` as the training data was, with the model's classes."""
        scores.torchmetrics()
        opened = open_source(source, cache=data.cache)
        columns = self.columns(opened.peek()[0].fields, data, opened.spec)
        return Pictures(_encoded(opened, columns, self.labels, tools, data, []), tools)

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """`pixel_values` (B, 3, H, W) fp32; `labels` holds `classes` (B,) int64."""
        ones_B = torch.ones(len(examples), dtype=torch.int64)
        pixels_B3HW = torch.from_numpy(np.stack([example["pixel_values"] for example in examples]))
        weighted = "weight" in examples[0]
        return Batch(
            inputs={"pixel_values": pixels_B3HW},
            labels={"classes": torch.tensor([int(example["label"]) for example in examples])},
            example_ids_B=ids_B,
            targets_B=ones_B,
            tokens_B=ones_B * num_tokens(*pixels_B3HW.shape[2:]),
            weights_B=torch.tensor([float(example["weight"]) for example in examples]) if weighted else None,
        )

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """Summed over the rows, in fp32."""
        return class_loss(outputs, batch, **shape_of(ctx))

    def evaluator(self) -> Evaluator:
        """The metrics of classes, the share among the five likeliest, and the user's own."""
        return ClassEvaluator(self.labels, own_metrics(self.metrics), top=TOP)

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """Of up to 256 validation pictures, evenly spread, those whose class the model finds least likely."""
        num_places = min(MOST_LOOKED_AT, len(data.valid)) if self.num_samples else 0
        places = dict.fromkeys(np.linspace(0, max(len(data.valid) - 1, 0), num=num_places, dtype=int).tolist())
        pictures, truth, found = cast(Pictures, data.valid), [], []
        for at in range(0, len(places), BATCH_ROWS):
            examples = [pictures[place] for place in list(places)[at : at + BATCH_ROWS]]
            truth += [int(example["label"]) for example in examples]
            found.append(_probabilities(Forward(model), self.collate(examples, torch.arange(len(examples))).inputs))
        if not truth:
            return []
        chances_NC = torch.cat(found)
        chances_N = chances_NC[torch.arange(len(truth)), torch.tensor(truth)]
        worst = chances_N.argsort(stable=True)[: self.num_samples].tolist()
        return [
            {
                "picture": as_data_uri(pictures.examples[list(places)[at]]["image"]),
                "text": _likeliest(chances_NC[at], self.labels),
                "truth": f"{self.labels[truth[at]]} ({float(chances_N[at]):.0%})",
            }
            for at in worst
        ]

    def fields_of(self, row: Row) -> Mapping[str, object]:
        """With the table that they stand in, against which paths are read."""
        return located(row)

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """For each row `prediction` (a class) and the `probabilities` of the likeliest classes."""
        asked = read_options(ImageOptions, options)
        forward, drawn, reader = Forward(model), iter(rows), None
        while True:
            images = []
            for fields in islice(drawn, BATCH_ROWS):
                if reader is None:
                    columns = image_columns(fields, told=asked.columns, where="the input", needed=("image",))
                    reader = ImageReader(tools, columns["image"])
                images.append(reader.read(fields))
            if not images:
                return
            for chances_C in _probabilities(forward, {"pixel_values": pixel_values(images, tools)}):
                best, places = chances_C.topk(min(asked.top, len(self.labels)))
                names = [self.labels[at] for at in places.tolist()]
                told = {name: round(chance, 6) for name, chance in zip(names, best.tolist(), strict=True)}
                yield {"prediction": names[0], "probabilities": told}


class ImageOptions(Config):
    """How to answer rows, and what the trained model's data looked like."""

    columns: dict[str, str] = {}
    """role -> column"""
    top: int = Field(default=20, ge=1)
    """of how many classes, the likeliest first, to give the probability"""


def as_data_uri(image_HW3: np.ndarray) -> str:
    """The picture, made small, as a PNG inside a text, as a page can show it."""
    from PIL import Image

    held = io.BytesIO()
    picture = Image.fromarray(np.asarray(image_HW3))
    picture.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))
    picture.save(held, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def _encoded(
    source: Source,
    columns: Columns,
    names: Sequence[str],
    processor: Any,
    data: DataConfig,
    skipped: list[Mapping[str, object]],
) -> Examples:
    labels = LabelReader(column=columns["label"], target="label", names=tuple(names))
    reader = ImageReader(processor, columns["image"])
    encoder = ImageEncoder(reader, labels, files=files_digest(source, columns["image"]))
    return encode_as_told(source, encoder, data, skipped)


def _model_options(names: Sequence[str], processor: Any, size: Sequence[int] | None) -> dict[str, object]:
    """Keys of the model's config: its classes, how pixels are scaled, and for a new model the size of a picture."""
    made: dict[str, object] = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: at for at, name in enumerate(names)},
        **pixel_scale(processor),
    }
    if size is not None:
        height, width = (int(side) for side in size)
        made |= {"image_size": height if height == width else [height, width], "num_channels": 3}
    return made


@torch.no_grad()
def _probabilities(forward: Forward, inputs: Mapping[str, Any]) -> Tensor:
    """(B, C) on the CPU; the model is left in the mode that it was in."""
    was_training, device = forward.model.training, next(forward.model.parameters()).device
    forward.model.eval()
    try:
        outputs = forward({name: tensor.to(device) for name, tensor in inputs.items()})
    finally:
        forward.model.train(was_training)
    return outputs.logits.float().softmax(1).cpu()


def _likeliest(chances_C: Tensor, names: Sequence[str]) -> str:
    best, places = chances_C.topk(min(3, len(names)))
    return ", ".join(f"{names[at]} ({chance:.0%})" for chance, at in zip(best.tolist(), places.tolist(), strict=True))
