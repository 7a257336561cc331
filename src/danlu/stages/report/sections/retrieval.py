"""What was found for a query: ranked lists with the right documents marked, and the scores slice by slice."""

from collections.abc import Mapping, Sequence

from danlu.core.journal import number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords, mapping, part
from danlu.stages.report.section import Html
from danlu.stages.report.words import count, significant

TITLE = "What was found"
ORDER = 22


def section(run: RunRecords) -> Html | None:
    """The lists and the table of the best evaluation, else of the last one."""
    evaluations = [record for record in run.of("evaluation") if "rankings" in part(record, "tables")]
    if not evaluations:
        return None
    record = run.best if "rankings" in part(run.best, "tables") else evaluations[-1]
    tables = part(record, "tables")
    return render(
        "retrieval",
        step=count(number(record["step"])),
        rankings=[_ranking(mapping(entry)) for entry in _list(tables["rankings"])],
        slices=_slices(mapping(tables.get("per_slice"))),
    )


def _ranking(entry: Mapping[str, object]) -> Mapping[str, object]:
    documents = [mapping(document) for document in _list(entry.get("documents"))]
    return {
        "query": str(entry.get("query", "")),
        "rank": count(number(entry.get("rank", 0))),
        "documents": [
            {
                "text": str(document.get("text", "")),
                "score": f"{number(document.get('score', 0.0)):.3f}",
                "right": bool(document.get("right")),
            }
            for document in documents
        ],
    }


def _slices(table: Mapping[str, object]) -> Mapping[str, object]:
    rows = [[_cell(value) for value in _list(row)] for row in _list(table.get("rows"))]
    return {"columns": [str(name) for name in _list(table.get("columns"))], "rows": rows}


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return count(number(value)) if isinstance(value, int) else significant(number(value))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
