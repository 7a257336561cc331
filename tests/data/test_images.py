"""Pictures as rows and examples."""

import io
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from danlu.core.errors import DataError
from danlu.data.cache import encode_as_told
from danlu.data.config import DataConfig
from danlu.data.images import (
    ImageEncoder,
    ImageReader,
    files_digest,
    image_columns,
    located,
    make_processor,
    pixel_values,
)
from danlu.data.labels import LabelReader
from danlu.data.rows import BadField, Row
from danlu.data.sources import open_source


def picture(seed: int, size: tuple[int, int] = (10, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def as_bytes(array: np.ndarray, kind: str = "png") -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def folder_of(root: Path, num: int = 4) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for at in range(num):
            Image.fromarray(picture(at + 10 * (name == "dog"))).save(root / name / f"{at}.png")
    return root


def encoder(column: str = "image", label: str = "folder", size: tuple[int, int] = (10, 8), files: str = ""):
    labels = LabelReader(column=label, target="label", names=("cat", "dog"))
    return ImageEncoder(ImageReader(make_processor(None, size=size), column), labels, files=files)


def encoded(spec: str, cache: Path, made: ImageEncoder | None = None, on_bad: str = "refuse", workers: int = 1):
    data = DataConfig(train=spec, cache=str(cache), on_bad=on_bad, workers=workers)
    skipped: list = []
    return encode_as_told(open_source(spec, cache=cache), made or encoder(), data, skipped), skipped


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "pets")
    (root / "README.md").write_text("what this is")
    row = open_source(str(root), cache=tmp_path).peek()[0]
    assert (row.number, row.fields["folder"]) == (1, "cat")
    assert image_columns(row.fields, told={}, where="x").by_role == {"image": "image", "label": "folder"}
    examples, _ = encoded(str(root), tmp_path / "cache")
    assert len(examples) == 8
    assert examples[0]["image"].dtype == np.uint8
    assert [int(example["label"]) for example in map(examples.__getitem__, range(8))] == [0] * 4 + [1] * 4
    assert np.array_equal(examples[5]["image"], picture(11))  # of its own size, a picture comes back to the bit


@pytest.mark.slow
def test_several_processes_encode_the_same(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "pets")
    one, two = (encoded(str(root), tmp_path / f"cache{workers}", workers=workers)[0] for workers in (1, 2))
    for at in range(8):
        assert np.array_equal(one[at]["image"], two[at]["image"])
        assert one[at]["label"] == two[at]["label"]


def test_tables_name_pictures_or_hold_them(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "pets", num=1)
    (root / "rows.csv").write_text("file_name,label\ncat/0.png,cat\ndog/0.png,dog\n")
    held = [{"bytes": as_bytes(picture(0)), "path": "a.png"}, {"bytes": as_bytes(picture(10)), "path": None}]
    pandas.DataFrame({"image": held, "label": ["cat", "dog"]}).to_parquet(tmp_path / "held.parquet")
    pandas.DataFrame({"image": [entry["bytes"] for entry in held], "label": ["cat", "dog"]}).to_parquet(
        tmp_path / "bytes.parquet"
    )
    named, _ = encoded(str(root), tmp_path / "cache", encoder("file_name", "label"))  # the table beside them wins
    for spec in ("held", "bytes"):
        found, _ = encoded(str(tmp_path / f"{spec}.parquet"), tmp_path / "cache", encoder("image", "label"))
        for at in range(2):
            assert np.array_equal(found[at]["image"], named[at]["image"]), spec


def test_a_changed_picture_behind_a_table_is_noticed(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "pets", num=1)
    (root / "rows.csv").write_text("file_name,label\ncat/0.png,cat\ndog/0.png,dog\n")
    source = open_source(str(root / "rows.csv"), cache=tmp_path / "cache")
    before = files_digest(source, "file_name")
    assert before == files_digest(source, "file_name")
    Image.fromarray(picture(77)).save(root / "cat" / "0.png", compress_level=0)
    assert before != files_digest(source, "file_name")
    assert files_digest(open_source(str(root / "cat"), cache=tmp_path / "cache"), "image") == ""


def test_modes_and_the_orientation_of_a_camera(tmp_path: Path) -> None:
    array = picture(1)
    reader = ImageReader(make_processor(None, size=(10, 8)))
    grey = array[..., 0]
    wide = (grey.astype(np.uint16) * 257).astype(np.uint16)
    for name, kept in {"grey": Image.fromarray(grey), "wide": Image.fromarray(wide)}.items():
        kept.save(tmp_path / f"{name}.png")
        read = reader.read({"image": str(tmp_path / f"{name}.png")})
        assert np.array_equal(read, np.repeat(grey[..., None], 3, axis=2)), name
    turned, exif = Image.fromarray(array.transpose(1, 0, 2)[::-1]), Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(reader.read({"image": str(tmp_path / "turned.png")}), array)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (as_bytes(picture(3, (64, 64)), "jpeg")[:600], "no sound image"),
        (as_bytes(picture(3))[:60], "no sound image"),
        (b"hello", "no sound image"),
        (b"", "no sound image"),
    ],
)
def test_a_broken_picture_is_named_or_skipped(tmp_path: Path, content: bytes, said: str) -> None:
    root = folder_of(tmp_path / "pets")
    (root / "dog" / "2.jpg").write_bytes(content)
    with pytest.raises(DataError, match=f"dog/2.jpg, row 1, field image: .*{said}.*Replace"):
        encoded(str(root), tmp_path / "cache")
    examples, skipped = encoded(str(root), tmp_path / "cache", on_bad="skip")
    assert len(examples) == 8
    assert [str(row["file"]).endswith("dog/2.jpg") for row in skipped] == [True]


def test_what_is_no_picture_is_told() -> None:
    reader = ImageReader(make_processor(None, size=(8, 8)))
    for value, said in (("gone.png", "not there"), (None, "empty"), (3, "int, not an image"), ("", "empty")):
        with pytest.raises(BadField, match=said):
            reader.read(located(Row("here.csv", 2, {"image": value})))
    with pytest.raises(BadField, match="missing"):
        reader.read({"other": 1})


def test_values_are_those_of_the_processor() -> None:
    processor = make_processor(None, size=(10, 8))
    arrays = [picture(1), picture(2)]
    expected = processor(images=[Image.fromarray(array) for array in arrays], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixel_values(arrays, processor), expected)
