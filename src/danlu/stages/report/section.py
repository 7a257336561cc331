"""A section of the report: a file in `sections/` with `TITLE`, `ORDER` and `section(run) -> Html | None`."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Self

from markupsafe import Markup

from danlu.stages.report.records import RunRecords

Html = Markup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One section: `id` is its file's name and its anchor; `make` returns None when it has nothing to say."""

    id: str
    title: str
    order: int
    make: Callable[[RunRecords], Html | None]
    body: Html = dataclasses.field(default_factory=Markup)

    def with_body(self, body: Html) -> Self:
        return dataclasses.replace(self, body=body)


def part_of(name: str, dotted: str) -> Part:
    """Imports a section's file."""
    module = importlib.import_module(dotted)
    return Part(id=name.replace("_", "-"), title=module.TITLE, order=module.ORDER, make=module.section)
