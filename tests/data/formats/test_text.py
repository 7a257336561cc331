import gzip

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import DataError
from danlu.data.formats.text import TextFormat, _cut
from danlu.data.rows import BadRow


def rows(path, part_bytes=None):
    return list(TextFormat().rows(path, path.name, part_bytes))


def test_a_file_is_a_document(write):
    (row,) = rows(write("a.txt", "\ufefffirst\n\nsecond"))
    assert (row.fields, row.part) == ({"text": "first\n\nsecond"}, (True, True, False))
    assert rows(write("empty.txt", "")) == []


def test_a_large_file_comes_in_parts_that_join(write):
    text = "".join(f"Absatz {n}: äöü 丹炉\n\n" for n in range(300))
    parts = rows(write("a.txt", text), 512)
    assert len(parts) > 10
    assert "".join(part.fields["text"] for part in parts) == text
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert [part.part.first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [part.part.joined for part in parts] == [False] + [True] * (len(parts) - 1)
    assert all(part.fields["text"].endswith("\n\n") for part in parts)
    assert TextFormat().count(write("a.txt", text), "a.txt", 512) == len(parts)


@given(st.text(alphabet="a \n丹é🔥", min_size=40, max_size=400))
def test_a_cut_never_parts_a_character(text):
    content = text.encode()
    limit = 32
    if len(content) > limit:
        cut = _cut(content, limit)
        assert limit // 2 <= cut <= limit
        assert content[:cut].decode() + content[cut:].decode() == text


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed(write, ending):
    pack = gzip.compress if ending == ".gz" else zstandard.ZstdCompressor().compress
    whole = pack(b"one ") + pack(b"two")
    (row,) = rows(write(f"a.txt{ending}", whole))
    assert row.fields["text"] == "one two"
    for damaged in (whole[:-3], b"neither of them"):
        with pytest.raises(DataError, match=r"compressed content is broken"):
            rows(write(f"b.txt{ending}", damaged))


def test_broken_bytes_are_a_bad_row_and_the_next_part_does_not_join_it(write):
    (bad,) = rows(write("a.txt", b"fine \xff not"))
    assert isinstance(bad, BadRow)
    assert (bad.file, bad.number, bad.field) == ("a.txt", 1, "text")
    assert "0xff at 5" in bad.problem
    content = b"a" * 30 + b"\n" + b"\xff" * 31 + b"\n" + b"c" * 31
    good, bad, after = rows(write("b.txt", content), 32)
    assert isinstance(bad, BadRow)
    assert (good.part.joined, after.part.joined) == (False, False)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        rows(tmp_path / "gone.txt")
