"""gettext's .po: the texts of a program with their translations."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

from danlu.data.formats.base import Format, Found, bad_encoding, opened
from danlu.data.rows import BadRow, Row

_KEYWORD = re.compile(r'(msgctxt|msgid_plural|msgid|msgstr(?:\[(\d+)\])?)\s*(".*")$')
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|(.))")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


class PoFormat(Format):
    """A translated entry is a row with the columns `msgid` and `msgstr`, numbered by the line of its msgid.

    The header, fuzzy, untranslated and obsolete entries are no rows. An entry with a plural gives two: the singular
    with the first form of the translation, the plural with the last.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".po", ".pot")

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        with opened(path) as file:
            yield from itertools.islice(_entries(file, name), start, None)


@dataclasses.dataclass
class _Entry:
    """What was read of an entry: keyword → text, and the line where each begins."""

    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    lines: dict[str, int] = dataclasses.field(default_factory=dict)
    last: str = ""
    fuzzy: bool = False

    def rows(self, name: str) -> Iterator[Row]:
        forms = [text for key, text in self.texts.items() if key.startswith("msgstr")]
        if self.fuzzy or not self.texts.get("msgid") or not forms or not all(forms):
            return
        for key, translated in (("msgid", forms[0]), ("msgid_plural", forms[-1])):
            if key in self.texts:
                yield Row(name, self.lines[key], {"msgid": self.texts[key], "msgstr": translated})


def _entries(file: IO[bytes], name: str) -> Iterator[Found]:
    entry, number = _Entry(), 0
    for number, raw in enumerate(file, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            yield bad_encoding(name, number, error)
            continue
        keyword = _KEYWORD.match(line)
        begins = line.startswith("#") or (keyword is not None and keyword[1] in ("msgctxt", "msgid"))
        if not line or (begins and any(key.startswith("msgstr") for key in entry.texts)):
            yield from entry.rows(name)
            entry = _Entry()
        if line.startswith("#,"):
            entry.fuzzy |= "fuzzy" in line
        elif keyword is not None:
            entry.last = keyword[1]
            entry.texts[entry.last], entry.lines[entry.last] = _plain(keyword[3]), number
        elif entry.last and len(line) > 1 and line[0] == line[-1] == '"':
            entry.texts[entry.last] += _plain(line)
        elif line and not line.startswith("#"):
            mend = "Check the file with msgfmt"
            yield BadRow(
                file=name, number=number, field="", problem=f"is no line of a .po file: {line[:60]}", mend=mend
            )
    yield from entry.rows(name)


def _plain(quoted: str) -> str:
    def put(match: re.Match[str]) -> str:
        octal, hexadecimal, letter = match.groups()
        if letter is not None:
            return _ESCAPED.get(letter, letter)
        return chr(int(octal, 8) if octal else int(hexadecimal, 16))

    return _ESCAPE.sub(put, quoted[1:-1])
