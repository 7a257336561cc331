"""COCO files, YOLO folders and tables of boxes, sound and broken."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danlu.core.errors import DataError
from danlu.data.annotations import open_annotated
from danlu.data.detection import DetectionEncoder, detection_columns
from danlu.data.images import ImageReader, make_processor
from danlu.data.rows import BadField

COLUMNS = {"image": "image", "boxes": "boxes", "labels": "labels"}
Edit = Callable[[dict], None]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def encoder(names: tuple[str, ...], form: str = "xywh") -> DetectionEncoder:
    reader = ImageReader(make_processor(None, size=(16, 16)))
    return DetectionEncoder(reader=reader, columns=COLUMNS, names=names, form=form)  # type: ignore[arg-type]


def picture(path: Path, width: int = 40, height: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(path)
    return path


def coco(folder: Path, edit: Edit = lambda _content: None) -> Path:
    picture(folder / "images" / "a.png")
    picture(folder / "images" / "b.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 5, 20, 10]},
            {"id": 2, "image_id": 7, "category_id": 9, "bbox": [0, 0, 4, 4], "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": 9, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    edit(content)
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def yolo(folder: Path, text: str = "1 0.5 0.5 0.5 0.5\n") -> Path:
    picture(folder / "images" / "train" / "a.png")
    picture(folder / "images" / "train" / "b.png")
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text(text)
    (folder / "data.yaml").write_text("names: {0: dog, 1: cat}\n")
    return folder


def encoded(opened) -> list:
    source, names = opened
    return encoder(names).encode_rows(list(source))


@pytest.mark.parametrize("as_folder", [True, False])
def test_coco_is_read_with_its_classes_in_order(tmp_path: Path, as_folder: bool) -> None:
    path = coco(tmp_path / "coco")
    opened = open_annotated(str(path.parent if as_folder else path))
    assert opened.names == ("cat", "dog")
    (first,), (second,) = encoded(opened)
    assert np.allclose(first["boxes"], [[0.5, 0.5, 0.5, 0.5], [0.05, 0.1, 0.1, 0.2]])
    assert np.allclose(first["crowds"], [[0.5, 0.5, 1.0, 1.0]])
    assert first["crowd_classes"].tolist() == [1]
    assert second["crowds"].shape == (0, 4)
    assert first["classes"].tolist() == [0, 1]
    assert first["size"].tolist() == [20, 40]
    assert first["image"].shape == (16, 16, 3)
    assert second["boxes"].shape == (0, 4)


@pytest.mark.parametrize("spec", ["", "images/train"])
def test_yolo_is_read(tmp_path: Path, spec: str) -> None:
    opened = open_annotated(str(yolo(tmp_path / "yolo") / spec))
    assert opened.names == ("dog", "cat")
    (first,), (second,) = encoded(opened)
    assert np.allclose(first["boxes"], [[0.5, 0.5, 0.5, 0.5]])
    assert first["classes"].tolist() == [1]
    assert len(second["classes"]) == 0


def test_a_table_may_hold_corners(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    made = encoder(("cat",), "xyxy").one({"image": str(path), "boxes": [[10, 5, 30, 15]], "labels": ["cat"]})
    assert np.allclose(made["boxes"], [[0.5, 0.5, 0.5, 0.5]])
    assert detection_columns({"file_name": "a", "bbox": [], "category": []}, told={}, where="x")["boxes"] == "bbox"


def _set(path: str, value: object) -> Edit:
    def edit(content: dict) -> None:
        name, at, key = path.split(".")
        content[name][int(at)][key] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "field", "problem"),
    [
        (_set("annotations.0.bbox", [30, 5, 20, 10]), "annotations[0].bbox", "leaves the picture of 40×20"),
        (_set("annotations.1.bbox", [3, 5, 0, 10]), "annotations[1].bbox", "no area"),
        (_set("annotations.0.bbox", [3, 5, 1]), "annotations[0].bbox", "not four numbers"),
        (_set("annotations.0.category_id", 5), "annotations[0].category_id", "is 5, no category's id"),
    ],
)
def test_a_bad_annotation_is_named(tmp_path: Path, edit: Edit, field: str, problem: str) -> None:
    bad, good = encoded(open_annotated(str(coco(tmp_path / "coco", edit))))
    assert isinstance(bad, BadField)
    assert bad.field == field
    assert problem in bad.problem
    assert not isinstance(good, BadField)


def test_an_annotation_of_no_image_is_named(tmp_path: Path) -> None:
    rows = encoded(open_annotated(str(coco(tmp_path / "coco", _set("annotations.0.image_id", 99)))))
    assert isinstance(rows[-1], BadField)
    assert rows[-1].field == "annotations[0].image_id"


@pytest.mark.parametrize(
    ("text", "problem"),
    [("5 0.5 0.5 0.5 0.5", "has class 5"), ("1 0.5 0.5", "not `class cx cy w h`"), ("1 0.9 0.5 0.5 0.5", "leaves")],
)
def test_a_bad_line_of_yolo_is_named(tmp_path: Path, text: str, problem: str) -> None:
    bad, _ = encoded(open_annotated(str(yolo(tmp_path / "yolo", f"0 0.5 0.5 0.1 0.1\n{text}\n"))))
    assert isinstance(bad, BadField)
    assert bad.field == "labels/train/a.txt line 2"
    assert problem in bad.problem


def test_a_label_that_training_lacks_is_named(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with pytest.raises(BadField, match=r"labels\[0\].*'cta'.*do not have"):
        encoder(("cat",)).one({"image": str(path), "boxes": [[1, 1, 5, 5]], "labels": ["cta"]})
    with pytest.raises(BadField, match="holds 0 labels, boxes 1 boxes"):
        encoder(("cat",)).one({"image": str(path), "boxes": [[1, 1, 5, 5]], "labels": []})


def test_pictures_without_annotations_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "only" / "a.png")
    with pytest.raises(DataError, match="neither COCO annotations"):
        open_annotated(str(tmp_path / "only"))
    path = coco(tmp_path / "coco")
    (path.parent / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"there is no picture a\.png"):
        list(open_annotated(str(path)).source)
