"""What a detector found in pictures, how well it agrees with the truth (COCO's measures), and how both are drawn."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.extras import need
from danlu.core.outputs import Outputs
from danlu.maths.boxes import corners_of, kept_by_nms
from danlu.tasks._own_metrics import OwnMetric, measured
from danlu.tasks.base import Evaluator

METRICS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100", "loss")
MOST = 100
"""of the best detections a picture are kept, as COCO counts them"""
_THUMBNAIL = 192


class Found(NamedTuple):
    """Objects of one picture, on the CPU: `boxes` (n, 4) corners, `classes` (n,) and `scores` (n,), the best first."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


NOTHING = Found(np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64), np.zeros(0))


class Judged(NamedTuple):
    """What was found in a picture and what is there, in its own pixels; `key` is its place in the data.

    What is found within `crowds` counts neither for nor against the detector.
    """

    key: int
    size: tuple[int, int]
    found: Found
    truth: Found
    crowds: Found = NOTHING


def detections(logits_BQC: Tensor, boxes_BQ4: Tensor, config: Any) -> list[Found]:
    """The at most 100 best of each picture, with corners as shares of it.

    A family with a class for "nothing" (logits of one class more than the model has) takes the softmax, the others
    sigmoids, where a box may be found under several classes. `nms_iou` in the model's config strikes out doubles.
    """
    logits_BQC, corners_BQ4 = logits_BQC.detach().float(), corners_of(boxes_BQ4.detach().float()).clamp(0, 1)
    several = logits_BQC.shape[-1] != config.num_labels + 1
    scores_BQC = logits_BQC.sigmoid() if several else logits_BQC.softmax(-1)[..., :-1]
    limit, made = getattr(config, "nms_iou", None), []
    for scores_QC, corners_Q4 in zip(scores_BQC, corners_BQ4, strict=True):
        scores_N, places_N = scores_QC.flatten().topk(min(MOST, scores_QC.numel()))
        boxes_N4, classes_N = corners_Q4[places_N // scores_QC.shape[1]], places_N % scores_QC.shape[1]
        if limit is not None:
            kept_N = kept_by_nms(boxes_N4, classes_N, limit)
            scores_N, boxes_N4, classes_N = scores_N[kept_N], boxes_N4[kept_N], classes_N[kept_N]
        made.append(Found(*(part.cpu().numpy() for part in (boxes_N4, classes_N, scores_N))))
    return made


def truths(batch: Batch, boxes: str = "boxes", classes: str = "classes") -> list[Found]:
    """What is there, by its labels, with corners as shares of the picture."""
    pairs = zip(batch.labels[boxes], batch.labels[classes], strict=True)
    made = [(corners_of(boxes_N4).cpu().numpy(), classes_N.cpu().numpy()) for boxes_N4, classes_N in pairs]
    return [Found(boxes, classes, np.ones(len(classes))) for boxes, classes in made]


class DetectionEvaluator(Evaluator):
    """Keeps the detections and the truth of every picture, which is what average precision needs."""

    def __init__(self, names: Sequence[str], config: Any, own: Mapping[str, OwnMetric]) -> None:
        self.names, self.config, self.own = tuple(names), config, own
        self.judged: list[Judged] = []
        self.losses: list[tuple[float, int]] = []
        self._scored: tuple[dict[str, float], list[list[object]]] | None = None

    def update(self, outputs: Outputs, batch: Batch) -> None:
        counted = [True] * batch.num_rows if batch.weights_B is None else (batch.weights_B != 0).tolist()
        if not any(counted):
            return
        loss = outputs.extra["loss"]
        assert isinstance(loss, Tensor)
        self.losses.append((float(loss), batch.num_targets))
        found = detections(outputs.logits, outputs.extra["pred_boxes"], self.config)  # type: ignore[arg-type]
        parts = zip(found, truths(batch), truths(batch, "crowds", "crowd_classes"), strict=True)
        rows = zip(batch.example_ids_B.tolist(), batch.labels["sizes"], parts, counted, strict=True)
        for key, size_2, seen, counts in rows:
            height, width = (int(side) for side in size_2)
            if counts:
                self.judged.append(Judged(key, (height, width), *(scaled(part, height, width) for part in seen)))

    def state(self) -> object:
        return self.judged, self.losses

    def absorb(self, state: object) -> None:
        assert isinstance(state, tuple)
        judged, losses = state
        self.judged += judged
        self.losses += losses
        self._scored = None

    def result(self) -> dict[str, float]:
        scores, _ = self._coco()
        total, targets = (sum(parts) for parts in zip(*self.losses, strict=True))
        pictures = sorted(self.judged, key=lambda entry: entry.key)
        lists = ([_named(getattr(entry, part)) for entry in pictures] for part in ("found", "truth"))
        return {**scores, "loss": total / max(targets, 1), **measured(self.own, *lists, self.names)}

    def tables(self) -> dict[str, object]:
        return {"detection": {"columns": ["class", "AP", "AP50", "AP75", "objects"], "rows": self._coco()[1]}}

    def _coco(self) -> tuple[dict[str, float], list[list[object]]]:
        if self._scored is None:
            self._scored = coco_scores(sorted(self.judged, key=lambda entry: entry.key), self.names)
        return self._scored


def scaled(found: Found, height: int, width: int) -> Found:
    """Corners in pixels instead of shares."""
    return found._replace(boxes=found.boxes * np.array([width, height, width, height], dtype=np.float32))


def _named(found: Found) -> dict[str, np.ndarray]:
    return {"boxes": found.boxes, "scores": found.scores, "labels": found.classes}


def coco_scores(pictures: Sequence[Judged], names: Sequence[str]) -> tuple[dict[str, float], list[list[object]]]:
    """COCO's measures, and for each class its name, AP, AP50, AP75 and number of objects.

    Lin et al. 2014: the precision at 101 recalls, meaned over recalls, classes and the IoU thresholds .50, .55 … .95;
    small is below 32² pixels, large above 96². What cannot be measured, for want of such objects, is NaN.
    """
    coco = need("faster_coco_eval", extra="detection", what="average precision")
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    images = []
    for number, entry in enumerate(pictures, 1):
        images.append({"id": number, "height": entry.size[0], "width": entry.size[1]})
        marks = [{**made, "iscrowd": 0} for made in _marks(entry.truth, number)]
        marks += [{**made, "iscrowd": 1} for made in _marks(entry.crowds, number)]
        truth += [{**made, "id": len(truth) + at} for at, made in enumerate(marks, 1)]
        found += _marks(entry.found, number)
    categories = [{"id": at, "name": name} for at, name in enumerate(names)]
    known = coco.COCO({"images": images, "annotations": truth, "categories": categories})
    objects = np.bincount([mark["category_id"] for mark in truth if not mark["iscrowd"]], minlength=len(names))
    if not found or not objects.any():
        none = dict.fromkeys(METRICS[:-1], 0.0 if objects.any() else float("nan"))
        return none, [[name, 0.0, 0.0, 0.0, 0] for name in names]
    judge = coco.COCOeval_faster(known, known.loadRes(found), "bbox", print_function=lambda *_said: None)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    stats = [float(value) if value >= 0 else float("nan") for value in judge.stats]
    precision_TRK = judge.eval["precision"][:, :, :, 0, -1]
    rows: list[list[object]] = [
        [name, *(_mean(precision_TRK[part, :, at]) for part in (slice(None), 0, 5)), int(objects[at])]
        for at, name in enumerate(names)
    ]
    return dict(zip(METRICS, (*stats[:6], stats[8]), strict=False)), rows


def _marks(found: Found, image: int) -> list[dict[str, Any]]:
    made = []
    for (left, top, right, bottom), which, score in zip(found.boxes.tolist(), found.classes, found.scores, strict=True):
        width, height = max(right - left, 0.0), max(bottom - top, 0.0)
        box = {"bbox": [left, top, width, height], "area": width * height, "score": float(score)}
        made.append({"image_id": image, "category_id": int(which), **box})
    return made


def _mean(values: np.ndarray) -> float | None:
    """None where there is no such object."""
    known = values[values > -1]
    return round(float(known.mean()), 4) if known.size else None


def thumbnail(picture: np.ndarray) -> str:
    """A picture (H, W, channels) uint8 as a small JPEG in a data URI."""
    image = need("PIL.Image", extra="detection", what="a picture")
    made, file = image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture), io.BytesIO()
    made.thumbnail((_THUMBNAIL, _THUMBNAIL))
    made.save(file, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
