"""Summary: how a run ended, in one small file, read off its journal."""

from pathlib import Path

from danlu.core.journal import Record, read_journal, standing


def summarise(folder: Path) -> dict[str, object]:
    """`summary.json` of the run in `folder`: a pure function of its journal and of whether `model/` is there."""
    records = standing(read_journal(folder / "journal.jsonl"))
    end = next((record for record in reversed(records) if record["kind"] == "end"), {})
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    best = next((record for record in reversed(evaluations) if record["best"]), None)
    return {
        "status": end.get("status", "failed"),
        "reason": end.get("reason", "the run ended without a word"),
        "steps": end.get("step", 0),
        "metrics": {
            "best": _metrics(best),
            "last": _metrics(evaluations[-1] if evaluations else None),
        },
        "speed": end.get("speed", {}),
        "findings": [_bare(record) for record in records if record["kind"] == "finding"],
        "actions": [_bare(record) for record in records if record["kind"] == "action"],
        "model": "model" if (folder / "model").is_dir() else None,
    }


def _metrics(evaluation: Record | None) -> dict[str, object]:
    if evaluation is None:
        return {}
    return {"step": evaluation["step"], **evaluation["metrics"]}  # type: ignore[dict-item]


def _bare(record: Record) -> Record:
    return {name: value for name, value in record.items() if name not in ("kind", "time")}
