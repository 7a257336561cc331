"""What was taken for what: a confusion matrix, and how well each class was found."""

from collections.abc import Mapping, Sequence

from danlu.core.journal import number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords, mapping, part
from danlu.stages.report.section import Html
from danlu.stages.report.words import count, significant

TITLE = "Class by class"
ORDER = 22
MOST_DRAWN = 30


def section(run: RunRecords) -> Html | None:
    """The tables of the best evaluation, else of the last one."""
    evaluations = [record for record in run.of("evaluation") if part(record, "tables")]
    if not evaluations:
        return None
    record = run.best if part(run.best, "tables") else evaluations[-1]
    tables = part(record, "tables")
    classes, matrix = _classes(mapping(tables.get("per_class"))), _matrix(mapping(tables.get("confusion")))
    if not classes and not matrix:
        return None
    return render("classes", classes=classes, matrix=matrix, step=count(number(record["step"])))


def _classes(table: Mapping[str, object]) -> Mapping[str, object] | None:
    rows, columns = _list(table.get("rows")), _list(table.get("columns"))
    if not rows or not columns:
        return None
    return {"columns": columns, "rows": [[_cell(value) for value in _list(row)] for row in rows]}


def _matrix(table: Mapping[str, object]) -> Mapping[str, object] | None:
    """Rows are what the data say; a cell's shade is its share of its row, so that rare classes can be read too."""
    labels, counts = _list(table.get("labels")), [_list(row) for row in _list(table.get("counts"))]
    if not labels or len(labels) > MOST_DRAWN:
        return None
    return {
        "labels": labels,
        "rows": [(label, _shaded(row, at)) for at, (label, row) in enumerate(zip(labels, counts, strict=True))],
    }


def _shaded(row: Sequence[object], right: int) -> list[Mapping[str, object]]:
    total = sum(map(number, row)) or 1.0
    shares = [number(value) / total for value in row]
    return [
        {"count": count(number(value)), "shade": round(share, 3), "dark": share > 0.6, "right": at == right}
        for at, (value, share) in enumerate(zip(row, shares, strict=True))
    ]


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return count(number(value)) if isinstance(value, int) else significant(number(value))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
