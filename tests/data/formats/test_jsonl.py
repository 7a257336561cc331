import gzip
import json

import pytest

from danlu.core.errors import DataError
from danlu.data.formats.jsonl import JsonlFormat
from danlu.data.rows import BadRow


def rows(path):
    return list(JsonlFormat().rows(path, path.name, None))


def test_lines_are_rows_and_empty_ones_only_count(write):
    path = write("a.jsonl", '\ufeff{"text": "a"}\n\n  \n{"text": "b", "n": 1}')
    assert [(row.number, row.fields) for row in rows(path)] == [(1, {"text": "a"}), (4, {"text": "b", "n": 1})]
    assert JsonlFormat().count(path, "a", None) == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{oops", "is not JSON"),
        (b'"word"', "holds a str"),
        (b"[1, 2]", "holds a list"),
        (b'{"text": "\xff"}', "not UTF-8 .byte 0xff at 10"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_bad_lines_are_told_and_the_rest_goes_on(write, line, problem):
    path = write("a.jsonl", b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
    first, bad, last = rows(path)
    assert isinstance(bad, BadRow)
    assert bad.number == 2
    with pytest.raises(DataError, match=f"a.jsonl, row 2: .*{problem}"):
        raise bad.error()
    assert (first.number, last.number) == (1, 3)


def test_a_list_in_a_json_file(write):
    path = write("a.json", json.dumps([{"text": "a"}, 5, {"text": "b"}], indent=1))
    first, bad, last = rows(path)
    assert (first.fields["text"], bad.number, last.number) == ("a", 2, 3)
    assert JsonlFormat().count(path, "a", None) == 3
    with pytest.raises(DataError, match="is not JSON"):
        rows(write("b.json", '[{"text": "a"},'))


def test_a_json_file_may_hold_lines(write):
    assert [row.fields["n"] for row in rows(write("a.json", [{"n": 1}, {"n": 2}]))] == [1, 2]


def test_compressed(write):
    assert [row.number for row in rows(write("a.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n')))] == [1, 2]
    assert [row.number for row in rows(write("a.json.gz", gzip.compress(b'[{"a": 1}, {"a": 2}]')))] == [1, 2]
