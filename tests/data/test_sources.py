import sysconfig
from pathlib import Path

import pytest

from danlu.core.errors import DataError
from danlu.data.sources import formats_by_suffix, open_source


def test_every_kind_of_place(write, tmp_path, cache, monkeypatch):
    write("corpus/b.txt", "bee")
    write("corpus/a.txt", "ant")
    write("corpus/deep/c.md", "cat")
    write("corpus/.hidden.txt", "no")
    write("corpus/.git/x.txt", "no")
    monkeypatch.chdir(tmp_path)

    def texts(spec):
        return [row.fields["text"] for row in open_source(spec, cache=cache)]

    assert texts("corpus/a.txt") == ["ant"]
    assert texts("corpus") == ["ant", "bee", "cat"]
    assert texts("corpus/*.txt") == ["ant", "bee"]
    assert texts("corpus/**/*.md") == ["cat"]
    assert texts(["corpus/b.txt", "corpus/a.txt"]) == ["bee", "ant"]
    assert texts(str(tmp_path / "corpus")) == ["ant", "bee", "cat"]


def test_files_are_named_as_the_person_wrote_them(write, tmp_path, cache, monkeypatch):
    write("corpus/deep/c.md", "cat")
    monkeypatch.chdir(tmp_path)
    assert [file.name for file in open_source("corpus", cache=cache).files] == ["corpus/deep/c.md"]


def test_the_standard_library(cache):
    source = open_source("builtin:python-stdlib", cache=cache)
    names = [file.key for file in source.files]
    assert len(names) > 100
    assert names == sorted(names)
    assert "json/decoder.py" in names
    assert not [name for name in names if "site-packages" in name or "/test/" in name or name.startswith("test/")]
    assert source.files[0].path.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())
    assert source.peek()[0].fields["text"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("corpus/aa.txt", "Did you mean 'a.txt'"),
        ("./nowhere/at/all", "not there either"),
        ("corpus/*.jsonl", "no file matches"),
        ("builtin:python-stdlob", "Did you mean 'python-stdlib'"),
        ("empty", "empty"),
        ("odd", "no file of a known format, only .xyz"),
        ("not a name", "neither a file here nor a hub name"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest(write, tmp_path, cache, monkeypatch, spec, message):
    write("corpus/a.txt", "ant")
    write("odd/a.xyz", "?")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as told:
        open_source(spec, cache=cache)
    assert told.value.where == spec


def test_no_source_at_all(cache):
    with pytest.raises(DataError, match="no source"):
        open_source([], cache=cache)


def test_an_unknown_ending_is_text_if_it_looks_like_text(write, cache):
    assert open_source(str(write("notes.unknown", "words")), cache=cache).peek()[0].fields == {"text": "words"}
    with pytest.raises(DataError, match="neither text nor"):
        open_source(str(write("picture.unknown", b"\x89PNG\0\0")), cache=cache)


def test_notes_beside_tables_are_left_out_but_a_mixture_is_refused(write, tmp_path, cache):
    write("set/data.jsonl", [{"text": "a"}])
    write("set/README.md", "about")
    write("set/dataset_info.json", "{}")
    assert [file.key for file in open_source(str(tmp_path / "set"), cache=cache).files] == ["data.jsonl"]
    write("set/story.txt", "a story")
    with pytest.raises(DataError, match=r"both texts .*story.txt.* and tables .*data.jsonl"):
        open_source(str(tmp_path / "set"), cache=cache)


def test_a_source_without_rows(write, cache):
    for name in ("empty.txt", "empty.jsonl", "empty.csv"):
        with pytest.raises(DataError, match="holds no rows"):
            open_source(str(write(name, "")), cache=cache).peek()
    with pytest.raises(DataError, match="holds no rows"):
        open_source(str(write("header.csv", "a,b\n")), cache=cache).peek()


def test_the_first_bad_row_speaks_when_none_is_good(write, cache):
    with pytest.raises(DataError, match="row 1: is not JSON"):
        open_source(str(write("bad.jsonl", "{oops\n")), cache=cache).peek()


def test_bad_rows_are_refused_or_handed_over(write, cache):
    source = open_source(str(write("a.jsonl", '{"text": "x"}\n[1]\n{"text": "y"}\n')), cache=cache)
    with pytest.raises(DataError, match=r"a.jsonl, row 2: holds a list.*on_bad: skip"):
        list(source.rows(source.files[0]))
    bad = []
    assert [row.number for row in source.rows(source.files[0], bad.append)] == [1, 3]
    assert [row.number for row in bad] == [2]


def test_the_fingerprint_follows_the_content_not_the_place(write, cache):
    first, second = (
        open_source(str(write(name, "same")).rpartition("/")[0], cache=cache) for name in ("x/a.txt", "y/a.txt")
    )
    assert first.fingerprint == second.fingerprint
    write("y/a.txt", "diff")
    assert open_source(second.spec, cache=cache).fingerprint != first.fingerprint


def test_every_suffix_has_one_reader():
    known = formats_by_suffix()
    assert {known[suffix] for suffix in (".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow")} == {
        "text",
        "jsonl",
        "csv",
        "parquet",
        "arrow",
    }
