"""Pictures with boxes become examples, and the columns of tables that hold them.

An example has `image` (H, W, 3) uint8, resized; `boxes` (n, 4) float32, centre, width and height as shares of
the picture; `classes` (n,) int64; `crowds` and `crowd_classes` the same of regions that COCO marks as crowds, which are
not judged; `size` (2,) int64, height and width of the picture as it was.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from danlu.core.errors import nearest
from danlu.data.columns import find_roles
from danlu.data.encoding import Encoded
from danlu.data.fingerprints import digest_of
from danlu.data.images import ALIASES as IMAGE_ALIASES
from danlu.data.images import ImageReader, load_picture, located
from danlu.data.rows import BadField, Example, Row
from danlu.data.text import judged

BoxForm = Literal["xywh", "xyxy", "shares"]
"""x, y, width, height in pixels; the corners in pixels; centre, width, height as shares of the picture"""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": IMAGE_ALIASES["image"],
    "boxes": ("boxes", "bboxes", "box", "bbox"),
    "labels": ("labels", "label", "classes", "class", "categories", "category"),
}
_VERSION = 2
_SLACK_PIXELS = 1.0  # rounded coordinates may end a little outside; such boxes are cut, not refused


def detection_columns(
    fields: Mapping[str, object], *, told: Mapping[str, str], where: str, labelled: bool = True
) -> dict[str, str]:
    """The columns of image, boxes and labels; without `labelled` that of the image alone.

    Raises:
        RequestError: a role that does not exist. DataError: a column that is not there.
    """
    needed = ("image", "boxes", "labels") if labelled else ("image",)
    told = {role: column for role, column in told.items() if role in needed or role not in ALIASES}
    return find_roles(fields, needed=needed, optional=(), aliases=ALIASES, told=told, where=where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionEncoder:
    """Turns rows into examples; `names` are the classes that the model knows, in their order; `files` stands for the
    pictures that a table names. Without a column of boxes the examples have none."""

    reader: ImageReader
    columns: Mapping[str, str]
    names: tuple[str, ...]
    form: BoxForm = "xywh"
    files: str = ""
    rows_at_once: ClassVar[int] = 64

    @property
    def key(self) -> str:
        """Names all that the examples depend on, the rows apart."""
        columns = sorted(self.columns.items())
        return digest_of("detection", _VERSION, self.reader.key, columns, self.names, self.form, self.files)

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """For each row its example, or what is wrong with it."""
        return [judged(lambda _fields, row=row: [self.one(located(row))], row) for row in rows]

    def one(self, fields: Mapping[str, object]) -> Example:
        """The example of one row's `located` fields.

        Raises:
            BadField: the row cannot be used.
        """
        if bad := fields.get("bad"):
            raise BadField(*map(str, bad))  # type: ignore[call-overload]
        picture = load_picture(fields, self.reader.column)
        size = np.array([picture.height, picture.width], dtype=np.int64)
        example = {"image": self.reader.resized(picture), "size": size}
        if "boxes" not in self.columns:
            return example
        crowds = {name: fields.get(name) or [] for name in ("crowds", "crowd_labels")} | {"form": "xywh"}
        unjudged = objects_of(crowds, {"boxes": "crowds", "labels": "crowd_labels"}, self.names, size)
        example |= {"crowds": unjudged["boxes"], "crowd_classes": unjudged["classes"]}
        return example | objects_of(fields, self.columns, self.names, size, self.form)


def objects_of(
    fields: Mapping[str, object], columns: Mapping[str, str], names: Sequence[str], size: np.ndarray, form: str = "xywh"
) -> dict[str, np.ndarray]:
    """`boxes` (n, 4) and `classes` (n,) of a row whose picture has the `size` (height, width).

    Raises:
        BadField: a box outside the picture, a class not in `names`, or not as many of the one as of the other.
    """
    column, labelled = columns["boxes"], columns["labels"]
    boxes, labels = (_listed(fields.get(name), name) for name in (column, labelled))
    if len(boxes) != len(labels):
        problem = f"holds {len(labels)} labels, {column} {len(boxes)} boxes"
        raise BadField(labelled, problem, "Give each box its label")
    form, places = str(fields.get("form", form)), fields.get("places")
    made = np.zeros((len(boxes), 4), dtype=np.float32)
    for at, box in enumerate(boxes):
        place = str(places[at]) if isinstance(places, list) else f"{column}[{at}]"
        made[at] = _shares(box, form, size, place)
    classes = [_class(label, names, f"{labelled}[{at}]") for at, label in enumerate(labels)]
    return {"boxes": made, "classes": np.array(classes, dtype=np.int64)}


def _class(label: object, names: Sequence[str], place: str) -> int:
    name = label_text(label)
    if name not in names:
        near = nearest(name, names)
        problem = f"holds the class {name!r}, which the training data do not have"
        raise BadField(place, problem, f"{near}? Correct it" if near.startswith("Did") else near)
    return names.index(name)


def label_text(label: object) -> str:
    """A class as text: 3 and 3.0 become "3"."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label).strip()


def _listed(value: object, column: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise BadField(column, f"holds {value!r:.60}, not a list with an entry for each object", "Write it as a list")
    return list(value)


def _shares(box: object, form: str, size: np.ndarray, place: str) -> np.ndarray:
    """Centre, width and height as shares of the picture.

    Raises:
        BadField: these are no four numbers, the box has no area, or it does not lie in the picture.
    """
    try:
        a, b, c, d = (float(number) for number in box)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise BadField(place, f"is {box!r:.60}, not four numbers", f"Write it as {form}") from None
    height, width = (int(side) for side in size)
    if form == "shares":
        a, b, c, d = (a - c / 2) * width, (b - d / 2) * height, (a + c / 2) * width, (b + d / 2) * height
    elif form == "xywh":
        c, d = a + c, b + d
    said = f"is {[round(float(number), 4) for number in box]} as {form}"  # type: ignore[attr-defined]
    if not (c > a and d > b):  # NaN too
        raise BadField(place, f"{said}, which has no area", "Remove or mend it; data option task.boxes names the form")
    slack = _SLACK_PIXELS
    if a < -slack or b < -slack or c > width + slack or d > height + slack:
        problem = f"{said}, which leaves the picture of {width}×{height} pixels"
        raise BadField(place, problem, "Mend it, or say with task.boxes what the four numbers are")
    a, b, c, d = max(a, 0.0), max(b, 0.0), min(c, width), min(d, height)
    return np.array([(a + c) / 2 / width, (b + d) / 2 / height, (c - a) / width, (d - b) / height], dtype=np.float32)
