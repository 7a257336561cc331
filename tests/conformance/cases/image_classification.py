"""Image classification: seven classes in folders; and a table whose classes are balanced."""

import random
from pathlib import Path

import numpy as np
from PIL import Image

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.config import DataConfig
from danlu.tasks.image_classification import ImageClassification

from .case import Case, make_case
from .text_classification import of_labels

CLASSES = "abcdefg"
SIDE = 16


def of_pictures(outputs: Outputs, batch: Batch) -> dict[str, float]:
    logits, truth = outputs.logits.numpy(), batch.labels["classes"].tolist()
    hits = [(row > row[label]).sum() < 5 for row, label in zip(logits, truth, strict=True)]
    return {**of_labels(outputs, batch), "top5": sum(hits) / len(hits)}


def draw(place: Path, seed: int) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 18), dtype=np.uint8)
    Image.fromarray(pixels).save(place)


def folders(folder: Path) -> Case:
    for at in range(84):
        draw(folder / "pictures" / CLASSES[at % 7] / f"{at}.png", at)
    data = DataConfig(train=str(folder / "pictures"), valid="40%")
    asked = [{"image": str(path), "folder": path.parent.name} for path in sorted(folder.rglob("*.png"))[:40]]
    return make_case(ImageClassification(image_size=SIDE), data, "vit", of_pictures, asked=asked)


def table(folder: Path) -> Case:
    draws, rows = random.Random(0), ["file,kind"]
    for at in range(60):
        draw(folder / "files" / f"{at}.png", at)
        rows.append(f"files/{at}.png,{draws.choice('aaab')}")
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")
    data = DataConfig(train=str(folder / "rows.csv"), valid="40%", columns={"label": "kind"})
    return make_case(ImageClassification(image_size=SIDE, class_weights="balanced"), data, "vit", of_pictures)


CASES = {"folders": folders, "table": table}
