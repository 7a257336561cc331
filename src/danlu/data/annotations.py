"""Annotations: COCO files and YOLO folders become rows of image, boxes and labels, as a table has them.

A row made here has `image` (a path), `boxes`, `labels`, `form` (of its boxes), `places` (where each box stands, for
messages), from COCO `crowds` and `crowd_labels` (regions of many objects, which count neither for nor against), and
where the annotations contradict themselves, `bad` (field, problem, mend).
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from danlu.core.errors import DataError
from danlu.data.fingerprints import digest_of
from danlu.data.formats.image import ImageFormat
from danlu.data.places import cache_folder, telling_disk_troubles, write_text_whole
from danlu.data.sources import Source, SourceFile, open_source

_NEITHER = "holds neither COCO annotations (a JSON file with images and annotations) nor YOLO's images/ and labels/"


class Annotated(NamedTuple):
    """Rows of image, boxes and labels; `names` are the classes in their order where the annotations say."""

    source: Source
    names: tuple[str, ...]


def open_annotated(spec: str | Sequence[str], *, cache: str | Path | None = None) -> Annotated:
    """What `spec` names: a COCO file or a folder with one, a YOLO folder, or any table with image, boxes and labels.

    Several are joined; their classes too, in the order of their first appearance.

    Raises:
        DataError: nothing is there, or it is not annotated.
    """
    specs, root = [spec] if isinstance(spec, str) else list(spec), cache_folder(cache)
    files: list[SourceFile] = []
    names: dict[str, None] = {}
    for one in specs:
        path = Path(one).expanduser()
        made = _coco(path, one) or _yolo(path, one)
        if made is None and path.is_dir() and _has_pictures(path):
            raise DataError(_NEITHER, where=one, mend="Put them there, or give a table with image, boxes and labels")
        if made is None:
            files += open_source(one, cache=cache).files
        else:
            files.append(_kept(made[0], one, root))
            names |= dict.fromkeys(made[1])
    return Annotated(Source(spec=", ".join(specs), files=tuple(files), cache=root), tuple(names))


_Made = tuple[Iterator[dict[str, object]], tuple[str, ...]]


def _kept(rows: Iterable[Mapping[str, object]], spec: str, root: Path) -> SourceFile:
    """The rows in a file of the cache, which goes by the name that the person gave."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    place = root / "annotations" / f"{digest_of('annotations', text)}.jsonl"
    if not place.is_file():
        with telling_disk_troubles(root):
            write_text_whole(place, text)
    return SourceFile(path=place, name=spec, key=Path(spec).name, format="jsonl", num_bytes=place.stat().st_size)


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in ImageFormat.suffixes for path in folder.rglob("*"))


def _coco(path: Path, spec: str) -> _Made | None:
    """Lin et al. 2014: images, annotations with `bbox` x, y, width, height in pixels, categories."""
    found = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.suffix == ".json" else []
    for file in found:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # JSON lines, for example: not for us to judge
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            names = {entry["id"]: str(entry["name"]) for entry in _entries(content, "categories", ("id", "name"), spec)}
            return _coco_rows(content, names, file, spec), tuple(names[key] for key in sorted(names, key=_number))
    return None


def _entries(content: Mapping[str, Any], name: str, keys: Sequence[str], where: str) -> list[Mapping[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"its {name} are missing", where=where, mend=f"COCO files have a list of {name}")
    for at, entry in enumerate(entries):
        if not isinstance(entry, dict) or not set(keys) <= entry.keys():
            raise DataError(f"{name}[{at}] lacks {' or '.join(keys)}", where=where, mend="Complete it")
    return entries


def _coco_rows(
    content: Mapping[str, Any], names: Mapping[object, str], file: Path, spec: str
) -> Iterator[dict[str, object]]:
    images = _entries(content, "images", ("id", "file_name"), spec)
    known = {entry["id"] for entry in images}
    of_image: dict[object, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    orphan = None
    for at, entry in enumerate(content["annotations"]):
        if not isinstance(entry, dict) or not {"image_id", "category_id", "bbox"} <= entry.keys():
            raise DataError(f"annotations[{at}] lacks image_id, category_id or bbox", where=spec, mend="Complete it")
        if entry["image_id"] not in known:
            orphan = orphan or [f"annotations[{at}].image_id", f"is {entry['image_id']}, the id of no image", "Mend it"]
        else:
            of_image[entry["image_id"]].append((at, entry))
    folder = _folder_of(str(images[0]["file_name"]), file)
    for entry in images:
        path = folder / str(entry["file_name"])
        row: dict[str, object] = {"image": str(path), "form": "xywh"}
        marks = [(at, mark) for at, mark in of_image[entry["id"]] if not mark.get("iscrowd")]
        crowds = [mark for _, mark in of_image[entry["id"]] if mark.get("iscrowd")]
        row |= {"crowds": [mark["bbox"] for mark in crowds]}
        row |= {"crowd_labels": [names.get(mark["category_id"]) for mark in crowds]}
        row["boxes"] = [mark["bbox"] for _, mark in marks]
        row["labels"] = [names.get(mark["category_id"]) for _, mark in marks]
        row["places"] = [f"annotations[{at}].bbox" for at, _ in marks]
        for at, mark in of_image[entry["id"]]:
            if mark["category_id"] not in names:
                mend = "Add it to the categories"
                row["bad"] = [f"annotations[{at}].category_id", f"is {mark['category_id']}, no category's id", mend]
        yield row
    if orphan is not None:
        yield {"image": "", "form": "xywh", "boxes": [], "labels": [], "places": [], "bad": orphan}


def _number(key: object) -> tuple[int, str]:
    return (key, "") if isinstance(key, int) else (0, str(key))


def _folder_of(name: str, file: Path) -> Path:
    """Where the pictures are: beside the annotations, or where COCO's and others' own layouts have them."""
    here, split = file.parent, file.stem.rpartition("_")[2]
    places = [here, here / "images", here / split, here.parent, here.parent / "images", here.parent / split]
    places.append(here.parent / "images" / split)
    found = next((place for place in places if (place / name).is_file()), None)
    if found is None:
        mend = "Put the pictures beside it, or into a folder images/ there"
        raise DataError(f"there is no picture {name}", where=str(file), mend=mend)
    return found.resolve()


def _yolo(path: Path, spec: str) -> _Made | None:
    """A folder with images/ and labels/, or one of pictures inside such an images/; labels have lines `class cx cy w h`
    in shares of the picture."""
    if not path.is_dir():
        return None
    path = path.resolve()
    if (path / "images").is_dir() and (path / "labels").is_dir():
        root, pictures = path, path / "images"
    else:
        above = next((folder for folder in (path, *path.parents) if folder.name == "images"), None)
        if above is None or not (above.parent / "labels").is_dir():
            return None
        root, pictures = above.parent, path
    names = _yolo_names(root, spec)
    found = sorted(entry for entry in pictures.rglob("*") if entry.suffix.lower() in ImageFormat.suffixes)
    if not found:
        raise DataError(
            "its images/ holds no picture", where=spec, mend=f"Known endings are {', '.join(ImageFormat.suffixes)}"
        )
    texts = {entry: root / "labels" / entry.relative_to(root / "images").with_suffix(".txt") for entry in found}
    if names is None:
        numbers = [words[0] for text in texts.values() for _, words in _lines(text)]
        most = max((int(word) for word in numbers if word.isdecimal()), default=0)
        names = tuple(str(at) for at in range(most + 1))
    return (_yolo_row(picture, text, root, names) for picture, text in texts.items()), names


def _yolo_names(root: Path, spec: str) -> tuple[str, ...] | None:
    """The classes of data.yaml or classes.txt; None where neither is there."""
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (root / name).is_file():
            try:
                names = (yaml.safe_load((root / name).read_text(encoding="utf-8")) or {}).get("names")
            except (yaml.YAMLError, AttributeError):
                names = None
            if isinstance(names, dict):
                names = [names[key] for key in sorted(names)]
            if not isinstance(names, list) or not names:
                raise DataError(f"its {name} names no classes", where=spec, mend="Write names: [cat, dog]")
            return tuple(map(str, names))
    if (root / "classes.txt").is_file():
        return tuple((root / "classes.txt").read_text(encoding="utf-8").split("\n")[: -1 or None]) or None
    return None


def _lines(text: Path) -> list[tuple[int, list[str]]]:
    """Number and words of each line that is not empty; a picture without a file of labels has no objects."""
    if not text.is_file():
        return []
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def _yolo_row(picture: Path, text: Path, root: Path, names: Sequence[str]) -> dict[str, object]:
    row: dict[str, object] = {"image": str(picture), "form": "shares"}
    boxes, labels, places = [], [], []
    for number, words in _lines(text):
        place = f"{os.path.relpath(text, root)} line {number}"
        try:
            which, *box = int(words[0]), *map(float, words[1:5])
        except ValueError:
            which, box = -1, []
        if len(box) != 4 or len(words) not in (5, 6) or not 0 <= which < len(names):
            known = f"class numbers are 0 to {len(names) - 1}"
            problem = (
                f"reads {' '.join(words)[:60]!r}, not `class cx cy w h`" if len(box) != 4 else f"has class {which}"
            )
            row["bad"] = [place, problem, f"Mend it; {known}"]
            continue
        boxes.append(box)
        labels.append(names[which])
        places.append(place)
    return {**row, "boxes": boxes, "labels": labels, "places": places}
