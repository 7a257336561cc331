"""Object detection: boxes round the objects of a picture, each with its class and a score."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from danlu.core.batch import Batch
from danlu.core.config import Config, read_options
from danlu.core.errors import RequestError, nearest
from danlu.core.extras import need
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.data.annotations import Annotated, open_annotated
from danlu.data.cache import encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig, share_of
from danlu.data.detection import BoxForm, DetectionEncoder, detection_columns
from danlu.data.examples import Examples, ExampleSet
from danlu.data.images import (
    ImageReader,
    Pictures,
    files_digest,
    located,
    make_processor,
    num_tokens,
    pixel_scale,
    pixel_values,
)
from danlu.data.labels import scan_labels
from danlu.data.rows import Row
from danlu.data.sources import Source
from danlu.data.split import split_source
from danlu.models.forward import Forward
from danlu.tasks._detection_loss import sum_losses
from danlu.tasks._detections import METRICS, DetectionEvaluator, Found, detections, scaled, thumbnail, truths
from danlu.tasks._own_metrics import own_metrics
from danlu.tasks.base import Call, Evaluator, Example, Prepared, Task, Tools

BATCH_ROWS = 16
DEFAULT_SIDE = 640
DRAWN_SCORE = 0.3
"""the least score of what is drawn into a sample"""


class ObjectDetection(Task):
    """Draws boxes round the objects of a picture and names their classes.

    The loss is the family's own (a matching of queries to objects, or danlu's dense one), summed over the pictures and
    divided by the number of objects.
    """

    auto_class: ClassVar[str] = "AutoModelForObjectDetection"
    taught: ClassVar[tuple[str, ...]] = ("columns",)
    tells_losses: ClassVar[bool] = False

    image_size: int | tuple[int, int] | None = None
    """height and width to which pictures are brought, or one number for both; when absent the model's own, else 640"""
    boxes: BoxForm = "xywh"
    """what the four numbers of a table's boxes are; COCO and YOLO have their own"""
    labels: tuple[str, ...] = ()
    """the classes in their order; when empty, those of the annotations, else those of data.train, sorted"""
    judge: str = "map"
    """the metric that says which evaluation is best, such as map_50 or loss"""
    metrics: tuple[str, ...] = ()
    """metrics of your own, each module:function, called with (found, truth, names of the classes)"""
    num_samples: int = Field(default=6, ge=0)
    """how many validation pictures to draw with their boxes, before and after training"""

    _held: "Held" = PrivateAttr(default_factory=lambda: Held())

    @field_validator("labels")
    @classmethod
    def _differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError("give each class once")
        return labels

    @property
    def judged(self) -> str:
        """The metric named by `judge`."""
        return self.judge

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Lower for the loss; all others are scores."""
        return "lower" if self.judge == "loss" else "higher"

    def columns(self, fields: Mapping[str, object], data: DataConfig, where: str) -> Columns:
        """The columns of image, boxes and labels."""
        return Columns(kind="image", by_role=detection_columns(fields, told=data.columns, where=where))

    def for_model(self, model: nn.Module) -> Self:
        """With the classes that the model's config names; its loss becomes a sum over objects."""
        sum_losses(model)
        config: Any = cast(PreTrainedModel, model).config
        known = self.model_copy(update={"labels": tuple(config.id2label[at] for at in range(config.num_labels))})
        known._held = Held(config)
        return known

    def sources(self, data: DataConfig, seed: int) -> tuple[Source, Source]:
        """The same of annotated pictures."""
        return self._split(open_annotated(data.train_sources, cache=data.cache), data, seed)

    def prepare(self, data: DataConfig, *, seed: int, base: str | None, say: Callable[[str], None]) -> Prepared:
        """Reads the annotations, splits them, and decodes and resizes every picture once."""
        for library in ("faster_coco_eval", "scipy"):  # the second matches queries with objects, in transformers
            need(library, extra="detection", what=self.kind())
        known = (*METRICS, *own_metrics(self.metrics))
        if self.judge not in known:
            problem = f"there is no metric {self.judge!r}"
            raise RequestError(problem, where="task.judge", mend=nearest(self.judge, known))
        say(f"reading {', '.join(data.train_sources)}")
        opened = open_annotated(data.train_sources, cache=data.cache)
        parts = self._split(opened, data, seed)
        columns = self.columns(parts[0].peek()[0].fields, data, opened.source.spec)
        names = self.labels or opened.names
        if not names:
            found = scan_labels(opened.source, columns["labels"], target="labels", cache=data.cache, least=1)
            names = found.names
        processor = self._make_processor(base)
        height, width = (int(processor.size[side]) for side in ("height", "width"))
        encoders = [self._encoder(part, columns.by_role, names, processor) for part in parts]
        say(f"decoding {parts[0].num_bytes / 1e6:.1f} MB of pictures")
        skipped: list[Mapping[str, object]] = []
        train, valid = (
            encode_as_told(part, encoder, data, skipped) for part, encoder in zip(parts, encoders, strict=True)
        )
        return Prepared(
            train=Pictures(train, processor),
            valid=Pictures(valid, processor),
            tools=processor,
            context=num_tokens(height, width),
            model_options={
                "num_labels": len(names),
                "id2label": dict(enumerate(names)),
                "label2id": {name: at for at, name in enumerate(names)},
                **pixel_scale(processor),
                **({} if base else {"image_size": height if height == width else [height, width]}),
            },
            facts=_facts(train, valid, len(names)),
            skipped=skipped,
            found={"columns": dict(columns.by_role)},
        )

    def prepare_eval(self, data: DataConfig, source: str, tools: Tools) -> ExampleSet:
        """Encodes `source` as the training data were, with the model's classes."""
        opened = open_annotated(source, cache=data.cache).source
        columns = self.columns(opened.peek()[0].fields, data, opened.spec)
        encoder = self._encoder(opened, columns.by_role, self.labels, tools)
        return Pictures(encode_as_told(opened, encoder, data, []), tools)

    def collate(self, examples: Sequence[Example], ids_B: Tensor) -> Batch:
        """`pixel_values` (B, 3, H, W); `boxes` (centre and sides as shares), `classes`, those of crowds; `sizes`."""
        names = ("boxes", "classes", "crowds", "crowd_classes")
        ragged = {name: tuple(torch.from_numpy(np.array(example[name])) for example in examples) for name in names}
        pixels_B3HW = torch.from_numpy(np.stack([example["pixel_values"] for example in examples]))
        return Batch(
            inputs={"pixel_values": pixels_B3HW},
            labels={
                **ragged,
                "sizes": torch.from_numpy(np.stack([example["size"] for example in examples])),
            },
            example_ids_B=ids_B,
            targets_B=torch.tensor([len(entry) for entry in ragged["boxes"]]),
            tokens_B=torch.full((len(examples),), num_tokens(*pixels_B3HW.shape[2:])),
        )

    def forward(self, call: Call, batch: Batch) -> Outputs:
        """With the objects: detectors of transformers compute their loss, and train against noised boxes, within."""
        weights = torch.ones(batch.num_rows) if batch.weights_B is None else batch.weights_B
        objects = zip(batch.labels["boxes"], batch.labels["classes"], weights, strict=True)
        labels = [{"boxes": boxes, "class_labels": classes, "weight": weight} for boxes, classes, weight in objects]
        return call({**batch.inputs, "labels": labels})

    def loss(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Tensor:
        """What the model's forward made: the sum over the objects, in fp32."""
        return cast(Tensor, outputs.extra["loss"])

    def evaluator(self) -> Evaluator:
        """COCO's measures, and the user's own."""
        return DetectionEvaluator(self.labels, self._held.config, own_metrics(self.metrics))

    def samples(self, model: nn.Module, data: Prepared, seed: int) -> list[dict[str, str]]:
        """Some validation pictures, evenly spread, with the boxes found and those of the data, in their own pixels."""
        spread = np.linspace(0, len(data.valid) - 1, num=min(self.num_samples, len(data.valid)), dtype=int)
        places = list(dict.fromkeys(spread.tolist()))
        if not places:
            return []
        pictures, made = cast(Pictures, data.valid), []
        batch = self.collate([pictures[at] for at in places], torch.tensor(places))
        for at, found, truth in zip(places, self._found(Forward(model), batch), truths(batch), strict=True):
            example = pictures.examples[at]
            sides = [int(side) for side in example["size"]]
            found, truth = scaled(_above(found, DRAWN_SCORE), *sides), scaled(truth, *sides)
            drawn = {"size": sides, "found": self._told(found), "truth": self._told(truth)}
            made.append(
                {
                    "prompt": f"picture {at}",
                    "text": f"\n→ {self._in_words(found)}",
                    "truth": self._in_words(truth, scores=False),
                    "picture": thumbnail(np.asarray(example["image"])),
                    "boxes": json.dumps(drawn),
                }
            )
        return made

    def fields_of(self, row: Row) -> Mapping[str, object]:
        """With the table that they stand in, against which paths are read."""
        return located(row)

    def predict(
        self, model: nn.Module, tools: Tools, rows: Iterable[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[dict[str, object]]:
        """For each picture `prediction`: box (x1, y1, x2, y2 in its own pixels), label and score, the best first."""
        asked = read_options(DetectionOptions, options)
        forward, drawn, encoder = Forward(model), iter(rows), None
        while True:
            examples = []
            for fields in islice(drawn, BATCH_ROWS):
                if encoder is None:
                    columns = detection_columns(fields, told=asked.columns, where="the input", labelled=False)
                    encoder = self._encoder(None, columns, self.labels, tools)
                example = {**encoder.one(fields), **NOTHING}
                examples.append({**example, "pixel_values": pixel_values([example["image"]], tools)[0].numpy()})
            if not examples:
                return
            batch = self.collate(examples, torch.arange(len(examples)))
            for example, found in zip(examples, self._found(forward, batch), strict=True):
                sides = (int(side) for side in example["size"])
                yield {"prediction": self._told(scaled(_above(found, asked.threshold), *sides))}

    def _split(self, opened: Annotated, data: DataConfig, seed: int) -> tuple[Source, Source]:
        if share_of(data.valid) is None:
            return opened.source, open_annotated(data.valid, cache=data.cache).source
        return split_source(opened.source, data.valid, seed)

    def _encoder(
        self, source: Source | None, columns: Mapping[str, str], names: tuple[str, ...], processor: Any
    ) -> DetectionEncoder:
        reader = ImageReader(processor, columns["image"])
        files = files_digest(source, reader.column) if source is not None else ""
        return DetectionEncoder(reader=reader, columns=columns, names=names, form=self.boxes, files=files)

    def _make_processor(self, base: str | None) -> Any:
        """Pictures are squeezed to one size, whatever their proportions: boxes as shares of a picture do not mind."""
        asked = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        if base is None:
            processor: Any = need("transformers", extra="detection").RTDetrImageProcessorPil()
        else:
            processor = make_processor(base, size=asked)
        if asked is not None or "height" not in processor.size:
            height, width = asked or (DEFAULT_SIDE, DEFAULT_SIDE)
            processor.size, processor.do_pad = {"height": height, "width": width}, False
        return processor

    @torch.no_grad()
    def _found(self, forward: Forward, batch: Batch) -> list[Found]:
        """Of each picture; the model is left in the mode that it was in."""
        model, device = forward.model, next(forward.model.parameters()).device
        was_training = model.training
        model.eval()
        try:
            outputs = forward(batch.to(device).inputs)
        finally:
            model.train(was_training)
        return detections(outputs.logits, cast(Tensor, outputs.extra["pred_boxes"]), self._held.config)

    def _told(self, found: Found) -> list[dict[str, object]]:
        """Ready for JSON."""
        return [
            {"box": [round(side, 2) for side in box], "label": self.labels[int(which)], "score": round(float(score), 4)}
            for box, which, score in zip(found.boxes.tolist(), found.classes, found.scores, strict=True)
        ]

    def _in_words(self, found: Found, *, scores: bool = True) -> str:
        pairs = zip(found.classes, found.scores, strict=True)
        words = [self.labels[int(at)] + (f" ({score:.0%})" if scores else "") for at, score in pairs]
        return ", ".join(words) or "nothing"


@dataclasses.dataclass(eq=False)
class Held:
    """The config of a task's model: no part of what makes two tasks equal."""

    config: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held)

    __hash__ = None  # type: ignore[assignment]


class DetectionOptions(Config):
    """How to answer pictures."""

    threshold: float = Field(default=0.3, ge=0.0, le=1.0)
    """the least score of what is told"""
    columns: dict[str, str] = {}
    """role -> column"""


NOTHING: Mapping[str, np.ndarray] = {
    **dict.fromkeys(("boxes", "crowds"), np.zeros((0, 4), dtype=np.float32)),
    **dict.fromkeys(("classes", "crowd_classes"), np.zeros(0, dtype=np.int64)),
}
"""the objects of a picture that is to be predicted"""


def _above(found: Found, score: float) -> Found:
    kept = found.scores >= score
    return Found(found.boxes[kept], found.classes[kept], found.scores[kept])


def _facts(train: Examples, valid: Examples, num_labels: int) -> dict[str, float]:
    """Numbers worth telling."""
    return {
        "train_examples": len(train),
        "train_objects": train.num_values("classes"),
        "valid_examples": len(valid),
        "valid_objects": valid.num_values("classes"),
        "num_labels": num_labels,
    }
