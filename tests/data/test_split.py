import pytest

from danlu.core.errors import DataError
from danlu.data.sources import open_source
from danlu.data.split import split_source


def files_of(source):
    return {file.key for file in source.files}


def texts_of(source):
    return [row.fields["text"] for row in source]


def test_several_texts_are_split_by_file(write, tmp_path, cache):
    for n in range(60):
        write(f"c/{n:02d}.txt", f"text {n} " * (n % 7 + 1))
    source = open_source(str(tmp_path / "c"), cache=cache)
    train, valid = split_source(source, "10%", 0)
    assert not files_of(train) & files_of(valid)
    assert files_of(train) | files_of(valid) == files_of(source)
    assert 0.08 < valid.num_bytes / source.num_bytes < 0.12
    again = split_source(open_source(str(tmp_path / "c"), cache=cache), "10%", 0)
    assert (files_of(again[0]), files_of(again[1])) == (files_of(train), files_of(valid))
    assert files_of(split_source(source, "10%", 1)[1]) != files_of(valid)


def test_equal_files_stay_on_one_side(write, tmp_path, cache):
    for n in range(40):
        write(f"c/{n:02d}.txt", f"text {n // 4}")
    train, valid = split_source(open_source(str(tmp_path / "c"), cache=cache), "20%", 0)
    assert not set(texts_of(train)) & set(texts_of(valid))


def test_two_texts_are_kept_whole_and_the_odd_share_is_noted(write, tmp_path, cache):
    write("c/a.txt", "one " * 100)
    write("c/b.txt", "two " * 100)
    train, valid = split_source(open_source(str(tmp_path / "c"), cache=cache), "2%", 0)
    assert len(train.files) == len(valid.files) == 1
    assert "50.0% of the bytes instead of 2%" in valid.notes[0]


def test_an_empty_file_is_never_all_of_valid(write, tmp_path, cache):
    write("c/a.txt", "")
    write("c/b.txt", "two " * 100)
    write("c/d.txt", "three " * 100)
    for seed in range(5):
        train, valid = split_source(open_source(str(tmp_path / "c"), cache=cache), "2%", seed)
        assert train.num_bytes
        assert valid.num_bytes


@pytest.mark.parametrize(("num_rows", "valid", "expected"), [(100, "7%", 7), (10, "2%", 1), (2, "99%", 1)])
def test_a_lone_table_is_split_by_row_exactly(write, cache, num_rows, valid, expected):
    source = open_source(str(write("a.jsonl", [{"text": str(n)} for n in range(num_rows)])), cache=cache)
    train, held = split_source(source, valid, 0)
    assert len(texts_of(held)) == expected
    assert sorted(texts_of(train) + texts_of(held)) == sorted(map(str, range(num_rows)))
    assert train.fingerprint != held.fingerprint != source.fingerprint


def test_few_large_tables_are_split_by_row(write, tmp_path, cache):
    for name in ("a", "b"):
        write(f"c/{name}.jsonl", [{"text": f"{name}{n}"} for n in range(100)])
    train, valid = split_source(open_source(str(tmp_path / "c"), cache=cache), "5%", 0)
    assert len(texts_of(valid)) == 10
    assert not set(texts_of(train)) & set(texts_of(valid))


def test_no_source_of_several_loses_all_its_tables(write, cache):
    """A tenth is just the size of the small one, which would then never be trained on."""
    specs = [
        str(write(f"{name}.jsonl", [{"text": f"{name} {at}"} for at in range(n)]))
        for name, n in (("a", 180), ("b", 20))
    ]
    for part in split_source(open_source(specs, cache=cache), "10%", 0):
        assert {file.source for file in part.files} == {0, 1}
        assert {text[0] for text in texts_of(part)} == {"a", "b"}


def test_a_lone_text_is_split_by_its_parts(write, cache):
    text = "".join(f"paragraph {n} {'words ' * 30}\n\n" for n in range(500))
    source = open_source(str(write("book.txt", text)), cache=cache)
    train, valid = split_source(source, "5%", 0)
    assert sorted("".join(texts_of(train) + texts_of(valid))) == sorted(text)
    assert 0.02 < len("".join(texts_of(valid))) / len(text) < 0.08
    gaps = [row for row in train if not row.part.first and not row.part.joined]
    assert gaps  # what follows a part that went to valid does not claim to continue


def test_bad_rows_fall_on_one_side(write, cache):
    lines = "".join('{"text": "x"}\n' if n % 3 else "oops\n" for n in range(60))
    source = open_source(str(write("a.jsonl", lines)), cache=cache)
    seen = [[], []]
    for side, bad in zip(split_source(source, "30%", 0), seen, strict=True):
        list(side.rows(side.files[0], bad.append))
    numbers = [bad.number for side in seen for bad in side]
    assert sorted(numbers) == list(range(1, 61, 3))
    assert all(seen)


def test_a_source_of_its_own(write, cache):
    source = open_source(str(write("a.jsonl", [{"text": "a"}])), cache=cache)
    train, valid = split_source(source, str(write("b.jsonl", [{"text": "b"}])), 0)
    assert (texts_of(train), texts_of(valid), valid.notes) == (["a"], ["b"], ())
    assert "also in train" in split_source(source, source.spec, 0)[1].notes[0]


@pytest.mark.parametrize("content", ['{"text": "only"}\n', ""])
def test_too_little_to_split(write, cache, content):
    with pytest.raises(DataError, match=r"too few.*data.valid"):
        split_source(open_source(str(write("a.jsonl", content)), cache=cache), "2%", 0)


def test_one_document_that_must_stay_whole_cannot_be_split(write, cache):
    source = open_source(str(write("a.txt", "words " * 5000)), cache=cache, whole_documents=True)
    with pytest.raises(DataError, match="too few"):
        split_source(source, "2%", 0)
