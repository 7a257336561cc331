"""What happened: findings, what was done about them, whether it helped; checkpoints, resumes, the end."""

import itertools
from collections.abc import Iterable, Mapping

from danlu.core.journal import Record, number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords, part
from danlu.stages.report.section import Html
from danlu.stages.report.words import count, duration, label, shown, significant, tick

TITLE = "What happened"
ORDER = 50
Event = dict[str, str]


def section(run: RunRecords) -> Html | None:
    """All events in order; checkpoints in a row, and a finding told again and again, become one line."""
    if not run.records:
        return None
    findings, actions = len(run.of("finding")), len(run.of("action"))
    intro = f"{_plural(findings, 'finding')}, {_plural(actions, 'action')}." if findings or actions else ""
    calm = "Nothing unusual was found." if run.of("reading") else "The run ended before its first step."
    return render("timeline", intro=intro or calm, events=list(_events(run)))


def _events(run: RunRecords) -> Iterable[Event]:
    wanted = [record for record in run.records if record["kind"] not in ("reading", "evaluation", "sample", "note")]
    wanted = [record for record in wanted if record["kind"] != "end"]
    for (kind, *_), group in itertools.groupby(wanted, key=lambda record: (record["kind"], record.get("name", ""))):
        records = list(group)
        if kind == "checkpoint":
            yield _checkpoints(records)
        elif kind == "finding":
            yield _finding(records)
        else:
            yield from (_event(run, record) for record in records)
    if run.best:
        yield _best(run)
    yield _end(run)


def _event(run: RunRecords, record: Record) -> Event:
    if record["kind"] == "start":
        return _start(record)
    if record["kind"] == "action":
        return _action(record)
    if record["kind"] == "verdict":
        return _verdict(record)
    return _made(record, title=str(record["kind"]))


def _start(record: Record) -> Event:
    if record.get("resumed_from") is None:
        return _made(record, title="Began", words=f"on {record['device']}" if record.get("device") else "")
    return _made(record, title="Resumed", words=f"from the checkpoint of step {record['resumed_from']}")


def _checkpoints(records: list[Record]) -> Event:
    best = [record["step"] for record in records if record.get("best")]
    spent = sum(number(record.get("seconds") or 0) for record in records)
    title = "Checkpoint" if len(records) == 1 else f"{len(records)} checkpoints"
    words = [f"best so far at step {best[-1]}"] if best else []
    words += [f"written in {duration(spent)}"] if spent else []
    return _made(records[0], title=title, words=", ".join(words), until=records[-1])


def _finding(records: list[Record]) -> Event:
    last = records[-1]
    title = label(str(last.get("name", "Finding"))).capitalize()
    times = f" Told {len(records)} times." if len(records) > 1 else ""
    evidence = last.get("evidence")
    numbers = evidence.items() if isinstance(evidence, Mapping) else ()
    said = ", ".join(f"{label(str(name))} {_number(value)}" for name, value in numbers)
    return _made(
        records[0], title=title, words=f"{last.get('sentence', '')}{times}", evidence=said, until=last, kind="finding"
    )


def _action(record: Record) -> Event:
    asked = f"asked by {label(str(record['by']))}" if record.get("by") else ""
    suggested = "Suggested: " if record.get("suggested") or record.get("applied") is False else ""
    action = part(record, "action")
    return _made(record, title=suggested + _deed(action), words=str(action.get("because") or ""), evidence=asked)


def _deed(action: Mapping[str, object]) -> str:
    """An action in words."""
    name, amount = str(action.get("name", "Action")), action.get("number")
    if name == "SetDial":
        dial = label(str(action.get("dial"))).capitalize()
        sign = "×" if action.get("kind") == "scale" else "set to"
        return f"{dial} back to its schedule" if amount is None else f"{dial} {sign} {_number(amount)}"
    if name == "QuarantineData":
        ids = action.get("example_ids")
        return f"Left {_plural(len(ids), 'example')} out from here on" if isinstance(ids, list) else "Left examples out"
    if name == "Rollback":
        return f"Went back to the {action.get('to', 'newest')} checkpoint"
    if name == "Stop":
        return "Asked to stop and to keep the best model" if action.get("restore_best") else "Asked to stop"
    return {"SkipStep": "Skipped this step", "Branch": "Tried another way"}.get(name, name)


def _verdict(record: Record) -> Event:
    helped = record.get("kept", record.get("helped"))
    title = "Verdict" if helped is None else "It helped, and stays" if helped else "It did not help, and was taken back"
    words = record.get("sentence") or record.get("because") or record.get("text") or ""
    return _made(record, title=title, words=str(words))


def _best(run: RunRecords) -> Event:
    metrics = run.best.get("metrics")
    value = shown(run.judged, number(metrics[run.judged])) if isinstance(metrics, Mapping) else ""
    return _made(dict(run.best), title="Best evaluation", words=f"{label(run.judged)} {value}", kind="best")


def _end(run: RunRecords) -> Event:
    titles = {"finished": "Finished", "stopped": "Stopped", "failed": "Failed"}
    record = dict(run.end) or {"kind": "unfinished", "step": run.last_step}
    title = titles.get(run.status, "No end was written")
    kind = "failed" if run.status == "failed" else "end"
    return _made(record, title=title, words=str(record.get("reason") or ""), kind=kind)


def _made(
    record: Record, *, title: str, words: str = "", evidence: str = "", until: Record | None = None, kind: str = ""
) -> Event:
    step, last = number(record["step"]), number((until or record)["step"])
    when = f"step {count(step)}" if step == last else f"steps {count(step)} – {count(last)}"
    return {"kind": kind or str(record["kind"]), "when": when, "title": title, "words": words, "evidence": evidence}


def _number(value: object) -> str:
    return tick(significant(float(value))) if isinstance(value, (int, float)) else str(value)


def _plural(number_of: int, word: str) -> str:
    return f"{number_of or 'No'} {word}{'' if number_of == 1 else 's'}"
