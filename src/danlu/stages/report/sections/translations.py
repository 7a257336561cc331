"""Translations: how good they are by the length of the source, and the worst and the best side by side."""

from collections.abc import Mapping, Sequence

from danlu.core.journal import number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords, mapping, part
from danlu.stages.report.section import Html
from danlu.stages.report.words import count, significant

TITLE = "Translations"
ORDER = 23
GROUPS = {"worst": "The worst", "best": "The best"}


def section(run: RunRecords) -> Html | None:
    """The tables of the best evaluation, else of the last one."""
    evaluations = [record for record in run.of("evaluation") if "translations" in part(record, "tables")]
    if not evaluations:
        return None
    record = run.best if "translations" in part(run.best, "tables") else evaluations[-1]
    tables = part(record, "tables")
    found, slices = mapping(tables.get("translations")), mapping(tables.get("slices"))
    return render(
        "translations",
        step=count(number(record["step"])),
        columns=_list(slices.get("columns")),
        rows=[[_cell(value) for value in _list(row)] for row in _list(slices.get("rows"))],
        groups=[(title, [_shown(mapping(row)) for row in _list(found.get(name))]) for name, title in GROUPS.items()],
        signatures=mapping(tables.get("signatures")),
    )


def _shown(row: Mapping[str, object]) -> Mapping[str, object]:
    return {**row, "chrf": significant(number(row["chrf"]))}


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return count(number(value)) if isinstance(value, int) else significant(number(value))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
