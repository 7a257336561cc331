from pathlib import Path

from danlu.data.formats.docstrings import DocstringsFormat
from danlu.data.sources import open_source

SOURCE = '''
def first(a):
    """Give back the first
    of some things.

    More words.
    """
    return a[0]


class Box:
    @property
    def size(self):
        """How large the box is."""
        # told by its sides
        return 1

    def bare(self):
        return 2

    def only(self):
        """It has no body at all."""

    def few(self):
        """Two words."""
        return 3

    def line(self): """On the line of its name."""; return 4
'''


SIZE = "@property\ndef size(self):\n    # told by its sides\n    return 1"


def test_functions_become_pairs(tmp_path: Path) -> None:
    path = tmp_path / "box.py"
    path.write_text(SOURCE)
    rows = list(DocstringsFormat().rows(path, "lib/pack/box.py", None))
    assert [(row.number, row.fields) for row in rows] == [
        (
            2,
            {
                "query": "Give back the first of some things.",
                "document": "def first(a):\n    return a[0]",
                "negative": SIZE,
                "module": "pack/box",
            },
        ),
        (
            13,
            {
                "query": "How large the box is.",
                "document": SIZE,
                "negative": "def first(a):\n    return a[0]",
                "module": "pack/box",
            },
        ),
    ]
    assert list(DocstringsFormat().rows(path, "lib/pack/box.py", None, start=1)) == rows[1:]
    path.write_text("def broken(:")
    assert list(DocstringsFormat().rows(path, "box.py", None)) == []


def test_no_package_is_on_both_sides() -> None:
    sides = [open_source(f"builtin:python-docstrings{end}") for end in ("", "-test")]
    tops = [{file.key.partition("/")[0].removesuffix(".py") for file in side.files} for side in sides]
    assert not tops[0] & tops[1]
    assert min(map(len, tops)) > 20
    row = next(iter(sides[1]))
    assert set(row.fields) == {"query", "document", "negative", "module"}
