"""Boxes on pictures: what a detector found and what the data say, before training and after; and class by class."""

import json
from collections.abc import Mapping, Sequence

from danlu.core.journal import Record, number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords, mapping, part
from danlu.stages.report.section import Html
from danlu.stages.report.words import count, significant

TITLE = "Boxes"
ORDER = 23
MOST = 12


def section(run: RunRecords) -> Html | None:
    """The newest picture of each sample, and the table of the best evaluation, else of the last one."""
    drawn = {str(record.get("prompt")): record for record in run.of("sample") if "boxes" in record}
    evaluations = [record for record in run.of("evaluation") if "detection" in part(record, "tables")]
    best = run.best if "detection" in part(run.best, "tables") else evaluations[-1] if evaluations else None
    table = mapping(part(best, "tables").get("detection")) if best else {}
    if not drawn and not table:
        return None
    pictures = [_picture(record) for record in list(drawn.values())[:MOST]]
    rows = [[_cell(value) for value in _list(row)] for row in _list(table.get("rows"))]
    return render("boxes", pictures=pictures, columns=_list(table.get("columns")), rows=rows)


def _picture(record: Record) -> Mapping[str, object]:
    """What the template draws; lengths are in the picture's own pixels."""
    drawn = mapping(json.loads(str(record["boxes"])))
    height, width = (number(side) for side in _list(drawn.get("size")))
    return {
        "name": str(record["prompt"]),
        "image": str(record.get("picture", "")),
        "width": width,
        "height": height,
        "letters": max(height, width) / 16,
        "found": [_box(mapping(entry)) for entry in _list(drawn.get("found"))],
        "truth": [_box(mapping(entry)) for entry in _list(drawn.get("truth"))],
        "words": f"{record.get('text', '')}".strip(),
    }


def _box(entry: Mapping[str, object]) -> Mapping[str, object]:
    left, top, right, bottom = (number(side) for side in _list(entry.get("box")))
    sides = {"x": left, "y": top, "width": max(right - left, 0.0), "height": max(bottom - top, 0.0)}
    return {**sides, "label": str(entry.get("label", "")), "score": f"{number(entry.get('score')):.2f}"}


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return count(number(value)) if isinstance(value, int) else significant(number(value))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
