"""TMX: translation memories, an XML file of units in several languages (LISA, TMX 1.4b)."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from danlu.data.formats.base import Format, Found, opened
from danlu.data.rows import BadRow, Row

_CODES = {"bpt", "ept", "ph", "it", "ut"}
"""elements inside a segment that hold another program's codes, no text"""
_LANGUAGE = ("{http://www.w3.org/XML/1998/namespace}lang", "lang")


class TmxFormat(Format):
    """A unit is a row; its columns are the languages as the file spells them. Rows are numbered by unit, from 1.

    The file is read as it comes, so memory does not grow with it. What follows broken XML is lost.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".tmx",)

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        yield from itertools.islice(_units(path, name), start, None)


def _units(path: Path, name: str) -> Iterator[Found]:
    number = 0
    with opened(path) as file:
        events = ElementTree.iterparse(file, events=("start", "end"))
        root: ElementTree.Element | None = None
        try:
            for event, element in events:
                root = element if root is None else root
                if event == "end" and _name(element) == "tu":
                    number += 1
                    yield Row(name, number, _texts(element))
                if event == "end" and _name(element) in ("tu", "header"):
                    element.clear()
                    for parent in root:
                        parent.clear()
        except ElementTree.ParseError as error:
            problem = f"is not XML from here on ({error})"
            yield BadRow(file=name, number=number + 1, field="", problem=problem, mend="Mend the file")


def _texts(unit: ElementTree.Element) -> dict[str, object]:
    found: dict[str, object] = {}
    for variant in unit:
        language = next((variant.get(key) for key in _LANGUAGE if variant.get(key)), None)
        segment = next((part for part in variant if _name(part) == "seg"), None)
        if language and segment is not None:
            found[language] = "".join(_words(segment)).strip()
    return found


def _words(element: ElementTree.Element) -> Iterator[str]:
    """The text of a segment in its order; codes are left out, what stands between them is not."""
    if _name(element) not in _CODES:
        yield element.text or ""
        for part in element:
            yield from _words(part)
            yield part.tail or ""


def _name(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]
