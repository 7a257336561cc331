import gzip

import pytest

from danlu.core.errors import DataError
from danlu.data.sources import open_source


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_lines_of_two_files_make_rows(write, tmp_path):
    write("train.en", "\ufeffone\n\nthree\n")
    write("train.de", "eins\nzwei\ndrei")
    source = open_source(str(tmp_path / "train.{en,de}"))
    assert [(row.number, row.fields) for row in source] == [
        (1, {"en": "one", "de": "eins"}),
        (2, {"en": "", "de": "zwei"}),
        (3, {"en": "three", "de": "drei"}),
    ]
    assert source.num_rows(source.files[0]) == 3
    before = source.fingerprint
    write("train.de", "eins\nzwei\nDREI")
    assert open_source(str(tmp_path / "train.{en,de}")).fingerprint != before


def test_folders_and_compressed_files(write, tmp_path):
    for name, text in (("en", "one\n"), ("de", "eins\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert next(iter(open_source(str(tmp_path / "{en,de}" / "a.txt.gz")))).fields == {"en": "one", "de": "eins"}


def test_a_side_that_ends_early_is_told(write, tmp_path):
    write("a.en", "one\ntwo\nthree\n")
    write("a.de", "eins\n")
    source = open_source(str(tmp_path / "a.{en,de}"))
    with pytest.raises(DataError, match=r"a.\{en,de\}, row 2, field de: is missing: de ends before en does"):
        list(source)
    assert source.num_rows(source.files[0]) == 2


def test_a_missing_side_is_named(write, tmp_path):
    write("a.en", "one\n")
    with pytest.raises(DataError, match=r"there is no file .*a\.de"):
        open_source(str(tmp_path / "a.{en,de}"))
