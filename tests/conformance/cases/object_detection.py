"""Object detection: a dense detector, one whose queries are matched with denoising beside, one with a softmax."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.config import DataConfig
from danlu.models.build import build_model
from danlu.models.config import ModelConfig
from danlu.tasks.object_detection import ObjectDetection

from .case import Case

NAMES = ("disc", "square")
SIDE = 32
RANGES = {"map": (0, 1e9), "map_small": (0, 32**2), "map_medium": (32**2, 96**2), "map_large": (96**2, 1e9)}
Box = tuple[float, float, float, float]
Mark = tuple[Box, int, float]
"""a box, its class and its score"""


def overlap(one: Box, two: Box) -> float:
    """Intersection over union."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    inside = max(width, 0.0) * max(height, 0.0)
    return inside / (area(one) + area(two) - inside) if inside else 0.0


def area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def matched(found: Sequence[Mark], truth: Sequence[Mark], limit: float, sizes: tuple[float, float]):
    """For each detection its score and whether it hit; those that count for neither (hit, or are, of another size) are
    left out. COCO's rule: the best free object above the limit, those of the right size before the others."""
    taken: set[int] = set()
    for box, _, score in sorted(found, key=lambda mark: -mark[2]):
        best = None
        for inside in (True, False):
            free = [
                (overlap(box, other), at)
                for at, (other, _, _) in enumerate(truth)
                if at not in taken and (sizes[0] <= area(other) <= sizes[1]) == inside
            ]
            free = [pair for pair in free if pair[0] >= limit]
            if free and best is None:
                best = (max(free)[1], inside)
        if best is not None:
            taken.add(best[0])
            if best[1]:
                yield score, True
        elif sizes[0] <= area(box) <= sizes[1]:
            yield score, False


def average_precision(hits: Sequence[tuple[float, bool]], objects: int) -> tuple[float, float]:
    """The precision meaned over 101 recalls, at each the best at that recall or a higher one; and the last recall."""
    hits = sorted(hits, key=lambda pair: -pair[0])
    right = np.cumsum([hit for _, hit in hits])
    precisions = right / np.arange(1, len(hits) + 1)
    recalls = right / objects
    at = [precisions[recalls >= recall - 1e-12] for recall in np.linspace(0, 1, 101)]
    return sum(part.max() if len(part) else 0.0 for part in at) / 101, float(recalls[-1]) if len(hits) else 0.0


def scores(pictures: Sequence[tuple[Sequence[Mark], Sequence[Mark]]]) -> dict[str, float]:
    """Every measure, from (found, truth) of each picture, slowly."""
    made: dict[str, list[float]] = {}
    limits = [0.5 + 0.05 * step for step in range(10)]
    for which in range(len(NAMES)):
        pairs = [[[mark for mark in part if mark[1] == which] for part in pair] for pair in pictures]
        for name, sizes in RANGES.items():
            objects = sum(sizes[0] <= area(box) <= sizes[1] for _, truth in pairs for box, _, _ in truth)
            for limit in limits if objects else []:
                hits = [hit for found, truth in pairs for hit in matched(found, truth, limit, sizes)]
                precision, recall = average_precision(hits, objects)
                made.setdefault(name, []).append(precision)
                if name == "map":
                    made.setdefault("mar_100", []).append(recall)
                    made.setdefault(f"map_{limit * 100:.0f}", []).append(precision)
    asked = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")
    return {name: float(np.mean(made[name])) if name in made else float("nan") for name in asked}


def corners(boxes_N4: torch.Tensor, size: Sequence[int]) -> list[Box]:
    """From shares of the picture to pixels."""
    height, width = size
    made = []
    for x, y, w, h in boxes_N4.double().tolist():
        sides = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in sides)
        made.append((left * width, top * height, right * width, bottom * height))
    return made


def truth_of(batch: Batch, at: int) -> list[Mark]:
    boxes = corners(batch.labels["boxes"][at], batch.labels["sizes"][at].tolist())
    return [(box, which, 1.0) for box, which in zip(boxes, batch.labels["classes"][at].tolist(), strict=True)]


def found_in(outputs: Outputs, batch: Batch, at: int, nms: float | None) -> list[Mark]:
    """The 100 best pairs of query and class; of those that overlap in a class by more than `nms` the best."""
    logits = outputs.logits[at].float().numpy()
    if logits.shape[1] == len(NAMES) + 1:
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        chances = chances[:, :-1]
    else:
        chances = 1 / (1 + np.exp(-logits))
    boxes = corners(outputs.extra["pred_boxes"][at], batch.labels["sizes"][at].tolist())
    order = np.argsort(-chances.ravel(), kind="stable")[:100]
    kept: list[Mark] = []
    for flat in order.tolist():
        query, which = divmod(flat, chances.shape[1])
        box = boxes[query]
        if nms is None or all(other != which or overlap(box, before) <= nms for before, other, _ in kept):
            kept.append((box, which, float(chances[query, which])))
    return kept


def reference(nms: float | None):
    def measured(outputs: Outputs, batch: Batch) -> Mapping[str, float]:
        pictures = [(found_in(outputs, batch, at, nms), truth_of(batch, at)) for at in range(batch.num_rows)]
        return {**scores(pictures), "loss": float(outputs.extra["loss"]) / batch.num_targets}

    return measured


def pictures(folder: Path, number: int) -> Path:
    """A COCO folder of discs and squares on noise, none to three of them, in pictures of several sizes."""
    draw = random.Random(0)
    images, marks = [], []
    for at in range(number):
        width, height = draw.choice([(48, 48), (64, 48), (40, 60)])
        pixels = np.random.default_rng(at).integers(0, 60, (height, width, 3), dtype=np.uint8)
        for _ in range(draw.randrange(4)):
            w, h = draw.randrange(8, 36), draw.randrange(8, 36)
            x, y, which = draw.randrange(width - w), draw.randrange(height - h), draw.randrange(2)
            rows, columns = np.mgrid[0:h, 0:w]
            disc = ((rows - h / 2) / h) ** 2 + ((columns - w / 2) / w) ** 2 < 0.25
            pixels[y : y + h, x : x + w][disc if which == 0 else slice(None)] = 200 + 20 * which
            marks.append({"id": len(marks), "image_id": at, "category_id": which, "bbox": [x, y, w, h]})
        images.append({"id": at, "file_name": f"{at}.png", "width": width, "height": height})
        Image.fromarray(pixels).save(folder / f"{at}.png")
    categories = [{"id": at, "name": name} for at, name in enumerate(NAMES)]
    content = {"images": images, "annotations": marks, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


DENSE = {"family": "dense-detector", "layers": 1, "width": 32, "heads": 2, "options": {"head_size": 16}}
RT_DETR = {
    "family": "rt_detr_v2",
    "options": {
        "backbone_config": {
            **{"model_type": "rt_detr_resnet", "layer_type": "basic", "embedding_size": 16},
            **{"hidden_sizes": [16, 32], "depths": [1, 1], "out_features": ["stage1", "stage2"]},
        },
        **{
            "encoder_in_channels": [16, 32],
            "feat_strides": [4, 8],
            "encode_proj_layers": [1],
            "encoder_hidden_dim": 32,
        },
        **{"encoder_ffn_dim": 32, "num_feature_levels": 2, "d_model": 32, "decoder_in_channels": [32, 32]},
        **{"decoder_layers": 2, "decoder_n_levels": 2, "decoder_ffn_dim": 32, "num_queries": 12, "num_denoising": 10},
        **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "freeze_backbone_batch_norms": False},
    },
}
YOLOS = {
    "family": "yolos",
    **{"layers": 2, "width": 32, "heads": 2},
    "options": {"image_size": [SIDE, SIDE], "patch_size": 8, "num_detection_tokens": 10},
}


def _made(folder: Path, design: Mapping[str, object]) -> Case:
    data = DataConfig(train=str(pictures(folder, 60)), valid="40%")
    task = ObjectDetection(image_size=SIDE)
    prepared = task.prepare(data, seed=0, base=None, say=lambda _text: None)
    model = build_model(
        ModelConfig.model_validate({"design": design}),
        auto_class=task.auto_class,
        options=prepared.model_options,
        seed=0,
    ).eval()
    asked = [{"image": str(folder / f"{at}.png")} for at in range(20)]
    known = task.for_model(model)
    nms = getattr(model.config, "nms_iou", None)
    options = {"threshold": 0.0}
    return Case(
        task=known, data=data, prepared=prepared, model=model, reference=reference(nms), asked=asked, options=options
    )


CASES = {
    "dense": lambda folder: _made(folder, DENSE),
    "rt-detr": lambda folder: _made(folder, RT_DETR),
    "yolos": lambda folder: _made(folder, YOLOS),
}
