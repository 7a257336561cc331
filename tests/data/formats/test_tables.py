"""Parquet and Arrow: the same table through both."""

import gzip

import pyarrow
import pyarrow.parquet
import pytest

from danlu.core.errors import DataError
from danlu.data.formats.arrow import ArrowFormat
from danlu.data.formats.csv import CsvFormat
from danlu.data.formats.jsonl import JsonlFormat
from danlu.data.formats.parquet import ParquetFormat
from danlu.data.formats.text import TextFormat

TABLE = pyarrow.table({"text": [f"row {n}" if n != 5 else None for n in range(1000)], "n": list(range(1000))})


def as_parquet(path):
    pyarrow.parquet.write_table(TABLE, path, row_group_size=300)


def as_packed_parquet(path):
    as_parquet(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


def as_arrow_stream(path):
    with pyarrow.ipc.new_stream(path, TABLE.schema) as stream:
        stream.write_table(TABLE, max_chunksize=300)


def as_arrow_file(path):
    with pyarrow.ipc.new_file(path, TABLE.schema) as file:
        file.write_table(TABLE, max_chunksize=300)


@pytest.mark.parametrize(
    ("form", "name", "save"),
    [
        (ParquetFormat, "a.parquet", as_parquet),
        (ParquetFormat, "a.parquet.gz", as_packed_parquet),
        (ArrowFormat, "a.arrow", as_arrow_stream),
        (ArrowFormat, "b.arrow", as_arrow_file),
    ],
)
def test_rows_in_order(tmp_path, form, name, save):
    path = tmp_path / name
    save(path)
    rows = list(form().rows(path, name, None))
    assert [row.number for row in rows] == list(range(1, 1001))
    assert rows[4].fields == {"text": "row 4", "n": 4}
    assert rows[5].fields["text"] is None
    assert form().count(path, name, None) == 1000


@pytest.mark.parametrize(("form", "save"), [(ParquetFormat, as_parquet), (ArrowFormat, as_arrow_stream)])
def test_damaged_files_are_told(tmp_path, form, save):
    path = tmp_path / "a"
    save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(DataError, match="is no sound"):
        list(form().rows(path, "a", None))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is no sound"):
        list(form().rows(path, "a", None))
    path.write_bytes(content[:200] + b"\xff" * 3000 + content[3200:])
    with pytest.raises(DataError, match="is no sound"):
        list(form().rows(path, "a", None))


def test_rows_may_be_passed_over(tmp_path, write):
    path = tmp_path / "a.parquet"
    as_parquet(path)
    stream = tmp_path / "a.arrow"
    as_arrow_stream(stream)
    lines = "".join(f'{{"n": {n}}}\n\n' for n in range(40))
    table = "".join(f"{n}\n" for n in ("n", *range(40)))
    for form, file, part_bytes in [
        (ParquetFormat, path, None),
        (ArrowFormat, stream, None),
        (JsonlFormat, write("a.jsonl", lines), None),
        (JsonlFormat, write("a.json", "[" + ", ".join(f'{{"n": {n}}}' for n in range(40)) + "]"), None),
        (CsvFormat, write("a.csv", table), None),
        (TextFormat, write("a.txt", "word " * 400), 64),
    ]:
        rows = list(form().rows(file, "a", part_bytes))
        for start in (0, 1, 17, len(rows) - 1, len(rows), len(rows) + 5):
            later = list(form().rows(file, "a", part_bytes, start))
            assert [(row.number, row.fields) for row in later] == [(row.number, row.fields) for row in rows[start:]]
