import pytest

from danlu.core.errors import DataError
from danlu.data.formats.csv import CsvFormat
from danlu.data.rows import BadRow


def rows(path):
    return list(CsvFormat().rows(path, path.name, None))


def test_rows_are_numbered_as_in_a_spreadsheet(write):
    path = write("a.csv", '\ufefftext,label\nfire,1\n"two\nlines, ""quoted""",0\n\n')
    assert [(row.number, row.fields) for row in rows(path)] == [
        (2, {"text": "fire", "label": "1"}),
        (3, {"text": 'two\nlines, "quoted"', "label": "0"}),
    ]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separators(write, separator):
    path = write("a.csv", f"a{separator}b\n1{separator}2\n")
    assert rows(path)[0].fields == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"one", "has 1 values where the header has 2"),
        (b"a,b,c", "has 3 values where the header has 2"),
        (b"caf\xe9,1", "is not UTF-8"),
        (b'"a"b,1', "is not CSV"),
    ],
)
def test_bad_rows(write, line, problem):
    path = write("a.csv", b"text,label\nfine,0\n" + line + b"\nalso fine,1\n")
    first, bad, last = rows(path)
    assert isinstance(bad, BadRow)
    with pytest.raises(DataError, match=f"a.csv, row 3: {problem}"):
        raise bad.error()
    assert (first.number, last.number) == (2, 4)


def test_a_quote_that_never_closes_is_told(write):
    good, bad = rows(write("a.csv", 'text,label\nfine,0\n"open,1\nlost,0\n'))
    assert good.number == 2
    assert isinstance(bad, BadRow)
    assert "is not CSV" in bad.problem


def test_a_document_longer_than_the_libraries_limit(write):
    text = "word " * 50_000
    assert rows(write("a.csv", f'text\n"{text}"\n'))[0].fields["text"] == text


def test_a_column_named_twice_is_refused(write):
    with pytest.raises(DataError, match="two columns are named 'a'"):
        rows(write("a.csv", "a,a\n1,2\n"))


def test_nothing_in_it(write):
    assert rows(write("a.csv", "")) == rows(write("b.csv", "a,b\n")) == []
