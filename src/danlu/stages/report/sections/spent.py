"""Where the time went."""

from danlu.core.journal import number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html
from danlu.stages.report.words import GAP, duration

TITLE = "Where the time went"
ORDER = 60


def section(run: RunRecords) -> Html | None:
    """Training, evaluations, checkpoints, waiting for data: as shares of the wall time."""
    total = run.seconds
    if total <= 0:
        return None
    evaluating, saving = (_sum(run, kind) for kind in ("evaluation", "checkpoint"))
    waiting = min(_waiting(run), total)
    training = max(0.0, total - evaluating - waiting)
    known = [
        ("Training", training, "forward, backward, optimiser"),
        ("Evaluating", evaluating, "measuring on what was kept aside"),
        ("Waiting for data", waiting, "the next batch was not there in time"),
    ]
    whole = sum(seconds for _, seconds, _ in known)
    parts = [
        {
            "name": name,
            "value": f"{duration(seconds)}, {100 * seconds / whole:.1f}{GAP}%",
            "words": words,
            "percent": 100 * seconds / whole,
            "shade": round(1 - 0.36 * at, 2),
        }
        for at, (name, seconds, words) in enumerate(known)
        if seconds > 0
    ]
    if saving:
        words = "in a thread of their own, beside the training"
        parts.append({"name": "Checkpoints", "value": duration(saving), "words": words, "percent": 0, "shade": 0})
    spoken = ", ".join(f"{part['name']} {part['value']}" for part in parts)
    return render("spent", parts=parts, spoken=spoken)


def _sum(run: RunRecords, kind: str) -> float:
    return sum(number(record.get("seconds") or 0) for record in run.of(kind))


def _waiting(run: RunRecords) -> float:
    """A reading tells the wait of its own step; it stands for the steps since the one before it."""
    series, before, total = run.reading("data_wait_seconds"), 0.0, 0.0
    for step, seconds in zip(series.xs, series.ys, strict=True):
        total += seconds * (step - before) if seconds == seconds else 0.0
        before = step
    return total
