"""What the model wrote before it learnt and after."""

from danlu.core.journal import Record
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html
from danlu.stages.report.words import count

TITLE = "Before and after"
ORDER = 25
MOST = 6
WRITTEN = "The prompt is in colour; what follows is the model's own, drawn at random with a fixed seed."
JUDGED = "Rows kept aside are in colour; below them stands what the model takes them for, and what the data say."


def section(run: RunRecords) -> Html | None:
    """For each prompt, the first and the last text that was written for it."""
    by_prompt: dict[str, list[Record]] = {}
    written = [record for record in run.of("sample") if "picture" not in record]
    for record in written:
        by_prompt.setdefault(str(record.get("prompt", "")), []).append(record)
    if not by_prompt:
        return None
    pairs = [{"prompt": prompt, "moments": _moments(records)} for prompt, records in list(by_prompt.items())[:MOST]]
    judged = all("truth" in record for record in written)
    return render("samples", pairs=pairs, intro=JUDGED if judged else WRITTEN)


def _moments(records: list[Record]) -> list[dict[str, str]]:
    first, last = records[0], records[-1]
    chosen = [first] if first["step"] == last["step"] else [first, last]
    return [{"title": _when(record), "text": _text(record)} for record in chosen]


def _text(record: Record) -> str:
    truth = f"\nThe data say: {record['truth']}" if "truth" in record else ""
    return f"{record.get('text', '')}{truth}"


def _when(record: Record) -> str:
    step = int(str(record["step"]))
    return "Before training" if step == 0 else f"After {count(step)} steps"
