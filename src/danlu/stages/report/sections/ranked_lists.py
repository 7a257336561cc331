"""Who was recommended what: some users' lists with the item that they really chose, and the metrics slice by slice."""

from collections.abc import Mapping, Sequence

from danlu.core.journal import number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords, mapping, part
from danlu.stages.report.section import Html
from danlu.stages.report.words import count, significant

TITLE = "Recommended lists"
ORDER = 23


def section(run: RunRecords) -> Html | None:
    """The lists of the best evaluation, else of the last one."""
    evaluations = [record for record in run.of("evaluation") if part(record, "tables").get("lists")]
    if not evaluations:
        return None
    record = run.best if part(run.best, "tables").get("lists") else evaluations[-1]
    tables = part(record, "tables")
    users = [_user(mapping(entry)) for entry in _list(tables["lists"])]
    slices = mapping(tables.get("slices"))
    rows = [[_cell(value) for value in _list(row)] for row in _list(slices.get("rows"))]
    columns = [str(name).replace("_unseen", ", unseen") for name in _list(slices.get("columns"))]
    return render("ranked_lists", users=users, columns=columns, rows=rows, step=count(number(record["step"])))


def _user(entry: Mapping[str, object]) -> Mapping[str, object]:
    hit = entry.get("hit")
    items = [(str(name), at == hit) for at, name in enumerate(_list(entry.get("items")))]
    history = [str(name) for name in _list(entry.get("history"))]
    return {
        "history": history,
        "items": items,
        "truth": str(entry.get("truth")),
        "rank": count(number(entry["rank"])),
        "hit": hit is not None,
    }


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return count(number(value)) if isinstance(value, int) else significant(number(value))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
