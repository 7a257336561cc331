"""Python source as pairs of what a function is said to do and how it does it. `builtin:python-docstrings` reads so."""

import ast
import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from danlu.data.formats.base import Format, Found, opened
from danlu.data.rows import Row

FEWEST_WORDS = 3

Function = ast.FunctionDef | ast.AsyncFunctionDef


class DocstringsFormat(Format):
    """One row for each function or method with a docstring, in the order of the file.

    `query` is the docstring's first paragraph on one line, `document` the function's source without its docstring,
    `negative` the next such function of the file (null where there is none), `module` the file's place. A summary
    under three words, a body that is empty without it and a file that is not Python give no row. It has no file ending
    of its own, since a .py file is a text.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    documents: ClassVar[bool] = True

    def rows(self, path: Path, name: str, part_bytes: int | None, start: int = 0) -> Iterator[Found]:
        yield from itertools.islice(_pairs(path, name), start, None)


def _pairs(path: Path, name: str) -> Iterator[Row]:
    with opened(path) as file:
        content = file.read()
    try:
        source = content.decode("utf-8-sig")
        tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return
    lines = source.splitlines(keepends=True)
    module = name.partition("/")[2].removesuffix(".py")
    functions = (node for node in ast.walk(tree) if isinstance(node, Function))
    found = []
    for node in sorted(functions, key=lambda node: node.lineno):
        summary = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
        document = _without_docstring(node, lines)
        if len(summary.split()) >= FEWEST_WORDS and document is not None:
            found.append((node.lineno, summary, document))
    for (number, summary, document), (_, _, other) in zip(found, found[1:] + found[:1], strict=True):
        negative = other if other != document else None
        yield Row(name, number, {"query": summary, "document": document, "negative": negative, "module": module})


def _without_docstring(node: Function, lines: list[str]) -> str | None:
    """The function's own lines; None when nothing is left, or the docstring shares a line with code."""
    if len(node.body) < 2:
        return None
    docstring, following = node.body[0], node.body[1]
    if following.lineno <= (docstring.end_lineno or 0) or docstring.lineno <= node.lineno:
        return None
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    head, body = lines[first - 1 : docstring.lineno - 1], lines[docstring.end_lineno : node.end_lineno]
    if not any(line.strip() for line in body):
        return None
    return textwrap.dedent("".join(head + body)).strip()
