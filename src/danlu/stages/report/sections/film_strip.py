"""What the policy did in its environment: some frames of an episode, before training and after."""

from collections.abc import Mapping

from danlu.core.journal import Record
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html
from danlu.stages.report.words import count

TITLE = "Film strip"
ORDER = 21


def section(run: RunRecords) -> Html | None:
    """The first and the last film of the first episode that was filmed."""
    films = [record for record in run.of("sample") if record.get("film")]
    films = [record for record in films if record.get("prompt") == films[0].get("prompt")]
    if not films:
        return None
    shown = films[:1] if films[0]["step"] == films[-1]["step"] else [films[0], films[-1]]
    return render("film_strip", episode=films[0].get("prompt", ""), strips=[_strip(record) for record in shown])


def _strip(record: Record) -> Mapping[str, object]:
    step = int(str(record["step"]))
    frames = zip(str(record.get("film_steps", "")).split(), str(record["film"]).split(), strict=False)
    return {
        "title": "Before training" if step == 0 else f"After {count(step)} steps",
        "outcome": str(record.get("text", "")).strip().removeprefix("→ "),
        "frames": [{"step": at, "data": data} for at, data in frames],
    }
