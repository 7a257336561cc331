"""Pictures become examples: decoded once, brought to the size that the model wants, kept as uint8 (H, W, 3).

A row's picture is a path (relative to the table that names it), the file's bytes, or {bytes, path} as the `datasets`
library writes them. Grey pictures become three equal channels, 16 bits a channel become 8, and the orientation that a
camera notes (EXIF) is carried out.
"""

import dataclasses
import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.core.errors import RequestError
from danlu.core.extras import need
from danlu.data.columns import Columns, find_roles
from danlu.data.encoding import Encoded
from danlu.data.examples import ExampleSet, column_of
from danlu.data.fingerprints import digest_of
from danlu.data.labels import LabelReader
from danlu.data.rows import BadField, Example, Row
from danlu.data.sources import Source, format_named
from danlu.data.text import judged

ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": (
        *("image", "img", "picture", "photo", "pixel_values", "file_name", "filename", "file", "path"),
        *("image_path", "image_file", "filepath", "file_path"),
    ),
    "label": ("label", "labels", "target", "class", "category", "fine_label", "y", "folder"),
}
"""Role -> column names that are understood without being told, the likeliest first; case does not matter."""

TABLE = "\0table"
"""the key under which `located` keeps the file that a row comes from"""

_VERSION = 1
_PATCH = 16
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, struct.error, zlib.error)
"""what PIL raises about files that are not sound"""


def located(row: Row) -> dict[str, object]:
    """The row's fields and the table that they come from, against which its paths are read."""
    return {**row.fields, TABLE: row.file}


def image_columns(
    fields: Mapping[str, object], *, told: Mapping[str, str], where: str, needed: Sequence[str] = ("image", "label")
) -> Columns:
    """The columns of the roles `needed`, by their usual names or as told.

    Raises:
        RequestError: a role that does not exist. DataError: a column that is not there, or that nobody can guess.
    """
    told = {role: column for role, column in told.items() if role in needed or role not in ALIASES}
    roles = find_roles(fields, needed=needed, optional=(), aliases=ALIASES, told=told, where=where)
    return Columns(kind="image", by_role=roles)


def load_picture(fields: Mapping[str, object], column: str) -> Any:
    """The picture of a row (`located` fields) as a PIL image in RGB, upright.

    Raises:
        BadField: there is none, or it cannot be decoded.
    """
    need("PIL", extra="vision", what="an image")
    from PIL import Image, ImageOps

    value, name = _content(fields, column)
    try:
        with Image.open(io.BytesIO(value) if isinstance(value, bytes) else value) as picture:
            upright = ImageOps.exif_transpose(picture)
            upright.load()
            return _in_rgb(upright)
    except FileNotFoundError:
        raise BadField(column, f"names {name}, which is not there", "Correct the path") from None
    except (*_BROKEN, Image.DecompressionBombError) as error:
        said = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        problem = f"holds no sound image ({name}: {said[:200]})"
        raise BadField(column, problem, "Replace the file, or remove it") from None


def _content(fields: Mapping[str, object], column: str) -> tuple[bytes | Path, str]:
    """(the picture's bytes or path, its name for people)"""
    value = fields.get(column)
    name = None
    if isinstance(value, Mapping):
        name = value.get("path")
        value = value.get("bytes") or name
    if isinstance(value, (bytes, bytearray)):
        return bytes(value), str(name or f"{len(value)} bytes")
    if isinstance(value, str) and value:
        path = Path(value).expanduser()
        return Path(str(fields.get(TABLE, ""))).expanduser().parent / path, value
    if not value:
        raise BadField(column, "is empty" if column in fields else "is missing", "Give the path of an image")
    raise BadField(column, f"holds {type(value).__name__}, not an image", "Give a path, or the bytes of a file")


def _in_rgb(picture: Any) -> Any:
    from PIL import Image

    if picture.mode[0] in "IF":  # PIL itself would cut such values off at 255
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 1.0 if picture.mode == "F" and values.max() <= 1 else 255.0
        picture = Image.fromarray((values * (255.0 / top)).clip(0, 255).round().astype(np.uint8))
    return picture.convert("RGB")


def make_processor(base: str | None, *, size: tuple[int, int] | None, default: int = 224) -> Any:
    """The image processor (transformers, working with PIL) of the model `base`, or one for a model designed here.

    `size` is (height, width) and wins over the base's; without a base a picture is squeezed to `size` or `default`
    squared, and normalised to about [-2, 2] with the means of ImageNet.

    Raises:
        RequestError: `base` has no image processor.
    """
    need("PIL", extra="vision", what="an image")
    import transformers
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    if base is None:
        height, width = size or (default, default)
        return transformers.ViTImageProcessorPil(
            size={"height": height, "width": width},
            image_mean=list(IMAGENET_DEFAULT_MEAN),
            image_std=list(IMAGENET_DEFAULT_STD),
        )
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(base, backend="pil")
    except (OSError, ValueError, ImportError) as error:
        said = str(error).strip().splitlines()[0].rstrip(".")
        raise RequestError(f"{base} has no image processor: {said}", where="model.from") from None
    if size is not None:
        processor.size = {"height": size[0], "width": size[1]}
        if getattr(processor, "do_center_crop", False):
            processor.crop_size = {"height": size[0], "width": size[1]}
    return processor


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """Reads a row's picture as the processor resizes and crops it, not yet scaled: uint8 (H, W, 3)."""

    processor: Any
    column: str = "image"

    @property
    def key(self) -> str:
        """Names all that a picture's array depends on, the file apart."""
        return digest_of("image", _VERSION, self.column, self.processor.to_json_string())

    def read(self, fields: Mapping[str, object]) -> np.ndarray:
        """The picture of `located` fields.

        Raises:
            BadField: there is none, or it cannot be decoded.
        """
        return self.resized(load_picture(fields, self.column))

    def resized(self, picture: Any) -> np.ndarray:
        """A PIL image in RGB as uint8 (H, W, 3)."""
        made = self.processor(images=picture, do_rescale=False, do_normalize=False, return_tensors="np")
        return np.ascontiguousarray(np.asarray(made["pixel_values"][0]).transpose(1, 2, 0).round().astype(np.uint8))


def pixel_scale(processor: Any) -> dict[str, list[float]]:
    """`image_mean` and `image_std` of the three channels: what a value in [0, 1] is normalised with."""
    if not getattr(processor, "do_normalize", True):
        return {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return {name: [float(value) for value in getattr(processor, name)] for name in ("image_mean", "image_std")}


def _factors(processor: Any) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) of each channel: a byte x becomes a x - b."""
    mean, std = (np.array(values, dtype=np.float32) for values in pixel_scale(processor).values())
    scale = float(processor.rescale_factor) if getattr(processor, "do_rescale", True) else 1.0
    return np.float32(scale) / std, mean / std


def pixel_values(images: Sequence[np.ndarray], processor: Any) -> Tensor:
    """(B, 3, H, W) fp32 of pictures of one size, scaled and normalised as the processor says."""
    factor, shift = (torch.from_numpy(part).view(1, -1, 1, 1) for part in _factors(processor))
    bytes_BCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()  # turned while it is small
    return bytes_BCHW.float().mul_(factor).sub_(shift)


def num_tokens(height: int, width: int) -> int:
    """What a picture costs when batches are measured in tokens: its patches of 16 × 16 pixels, as in a usual ViT."""
    return -(-height // _PATCH) * -(-width // _PATCH)


class Pictures:
    """Examples whose `image` is given as `pixel_values` (3, H, W) fp32, scaled and normalised."""

    def __init__(self, examples: ExampleSet, processor: Any) -> None:
        self.examples, self.processor = examples, processor
        self.num_tokens = num_tokens(*examples[0]["image"].shape[:2])
        self.lengths = np.full(len(examples), self.num_tokens, dtype=np.int64)
        self.fingerprint = digest_of("pictures", examples.fingerprint, processor.to_json_string())
        self._factor, self._shift = (part.reshape(3, 1, 1) for part in _factors(processor))

    def __len__(self) -> int:
        return len(self.examples)

    def column(self, name: str) -> np.ndarray:
        """A number of each picture."""
        return column_of(self.examples, name)

    def __getitem__(self, at: int) -> Example:
        example = dict(self.examples[at])
        values_3HW = np.ascontiguousarray(example.pop("image").transpose(2, 0, 1), dtype=np.float32)
        return {"pixel_values": values_3HW * self._factor - self._shift, **example}


class ImageEncoder:
    """Turns rows into examples: `image` uint8 (H, W, 3) and, when `labels` is given, `label`."""

    rows_at_once = 64

    def __init__(self, reader: ImageReader, labels: LabelReader | None, *, files: str = "") -> None:
        self.reader, self.labels, self.files = reader, labels, files

    @property
    def key(self) -> str:
        """Names all that the examples depend on, the rows apart; `files` stands for pictures that a table names."""
        labels = dataclasses.astuple(self.labels) if self.labels else None
        return digest_of("image-label", _VERSION, self.reader.key, labels, self.files)

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """For each row its example, or what is wrong with it."""
        return [judged(lambda _fields, row=row: [self.one(located(row))], row) for row in rows]

    def one(self, fields: Mapping[str, object]) -> Example:
        """The example of one row's `located` fields.

        Raises:
            BadField: the row cannot be used.
        """
        label = {} if self.labels is None else {"label": self.labels.read(fields)}
        return {"image": self.reader.read(fields), **label}


def files_digest(source: Source, column: str) -> str:
    """Names the state (size and time) of the pictures whose paths a table holds; empty when rows hold the pictures."""
    if all(format_named(file.format).pictures for file in source.files):
        return ""
    if not isinstance(source.peek()[0].fields.get(column), str):
        return ""
    digest = ""
    for file in source.files:
        for row in source.rows(file, on_bad=lambda _bad: None):
            path = Path(row.file).expanduser().parent / str(row.fields.get(column))
            told = path.stat() if path.is_file() else None
            digest = digest_of(digest, path, told and (told.st_size, told.st_mtime_ns))
    return digest
