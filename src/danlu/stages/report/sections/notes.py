"""What the run wants to be known: rows that were left out, checkpoints that were passed over, and the like."""

from collections.abc import Mapping, Sequence

from danlu.core.journal import Record
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html

TITLE = "Notes"
ORDER = 70
MOST_ROWS = 50


def section(run: RunRecords) -> Html | None:
    """Notes by their text, each told once, with the rows that it speaks of folded away."""
    by_text: dict[str, list[Record]] = {}
    for record in run.of("note"):
        by_text.setdefault(str(record.get("text", "")), []).append(record)
    return render("notes", notes=[_note(text, records) for text, records in by_text.items()]) if by_text else None


def _note(text: str, records: list[Record]) -> dict[str, object]:
    told = [row for record in records for row in _rows(record)]
    count = max(len(told), sum(int(str(record.get("count", 1))) for record in records))
    shown = told[:MOST_ROWS] + ([f"and {count - MOST_ROWS} more"] if count > MOST_ROWS else [])
    times = f" ({count} times)" if count > 1 and not text[:1].isdigit() else ""
    return {"text": f"{text[:1].upper()}{text[1:]}{times}", "rows": shown if told else []}


def _rows(record: Record) -> list[str]:
    """The rows that a note speaks of: in a list of their own, or one in its fields."""
    rows = record.get("rows")
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        return [_row(row) for row in rows]
    return [_row(record)] if "file" in record or "row" in record else []


def _row(row: object) -> str:
    if not isinstance(row, Mapping):
        return str(row)
    place = ", ".join(
        f"{row[key]}" if key == "file" else f"{key} {row[key]}" for key in ("file", "row", "field") if key in row
    )
    rest = " ".join(str(row[key]) for key in ("problem", "mend") if row.get(key))
    return ": ".join(part for part in (place, rest) if part) or str(dict(row))
