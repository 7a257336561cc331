"""Plain text: a file is one document."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from danlu.data.formats.base import Format, Found, bad_encoding, opened
from danlu.data.rows import Part, Row


class TextFormat(Format):
    """One document a file, in the column `text`; an empty file has no rows.

    A file above `part_bytes` comes in parts of about that size, cut after an empty line if there is one in the second
    half, else after a line, else between characters. The tokens at a cut may differ from those of the whole text.
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        *(".txt", ".text", ".md", ".rst", ".tex", ".log", ".html", ".htm", ".xml", ".yaml", ".yml", ".toml", ".ini"),
        *(".py", ".pyi", ".js", ".ts", ".jsx", ".tsx", ".java", ".kt", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cs"),
        *(".go", ".rs", ".rb", ".php", ".swift", ".scala", ".sh", ".sql", ".lua", ".pl", ".r", ".jl", ".hs", ".ml"),
        ".css",
    )
    documents: ClassVar[bool] = True

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        previous_good = False
        for number, (content, last) in enumerate(_parts(path, part_bytes), 1):
            if number <= start:
                continue
            try:
                text = content.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield bad_encoding(name, number, error, "text")
                previous_good = False
                continue
            yield Row(name, number, {"text": text}, Part(number == 1, last, joined=previous_good))
            previous_good = True


def _parts(path: Path, part_bytes: int | None) -> Iterator[tuple[bytes, bool]]:
    """(content, is it the last) of each part, never empty."""
    with opened(path) as file:
        if part_bytes is None:
            content = file.read()
            if content:
                yield content, True
            return
        waiting = b""
        while True:
            more = file.read(part_bytes)
            waiting += more
            while len(waiting) > part_bytes:
                cut = _cut(waiting, part_bytes)
                yield waiting[:cut], False
                waiting = waiting[cut:]
            if not more:
                if waiting:
                    yield waiting, True
                return


def _cut(content: bytes, limit: int) -> int:
    half = limit // 2
    for mark in (b"\n\n", b"\n", b" "):
        at = content.rfind(mark, half, limit)
        if at >= 0:
            return at + len(mark)
    cut = limit
    while cut > half and content[cut] & 0xC0 == 0x80:  # a byte that continues a UTF-8 character
        cut -= 1
    return cut
