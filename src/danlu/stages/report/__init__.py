"""Report: one self-contained page about a run, made from its folder alone."""

import base64
import hashlib
import math
import os
from pathlib import Path

import danlu
from danlu.core import discover
from danlu.core.errors import RunError
from danlu.core.journal import number
from danlu.stages.report.html import asset, render
from danlu.stages.report.records import RunRecords, load_run
from danlu.stages.report.section import Part, part_of
from danlu.stages.report.words import count, duration, label, shown

STATUS = {
    "finished": "Finished.",
    "stopped": "Stopped before its budget was used.",
    "failed": "This run failed.",
    "unfinished": "This run has not come to its end: it is still going on, or it was killed.",
}


def write_report(run: Path) -> Path:
    """Writes `report.html` into the run folder and returns its path.

    The page loads nothing and sends nothing; it reads the folder's journal, summary, recipe and model configuration.
    A report that is already there stays whole until the new one is.

    Raises:
        RequestError: `run` is no run folder.
        RunError: the page cannot be written.
    """
    records = load_run(run)
    path, aside = run / "report.html", run / f".report.html.{os.getpid()}"
    try:
        aside.write_text(page(records), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise RunError(f"the report cannot be written ({error.strerror})", where=str(path)) from error
    finally:
        aside.unlink(missing_ok=True)
    return path


def page(run: RunRecords) -> str:
    """The whole page as text."""
    script = asset("hover.js")
    return render(
        "page",
        version=danlu.__version__,
        run=run,
        style=asset("style.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        status_word=STATUS.get(run.status, f"{run.status.capitalize()}."),
        reason=_sentence(str(run.end.get("reason") or "")),
        verdict=_what_stands(run),
        lead=_lead(run),
        parts=parts(run),
    )


def parts(run: RunRecords) -> list[Part]:
    """Every section that has something to say about this run, in the order of `ORDER`, found by its path."""
    found = [part_of(name, dotted) for name, dotted in discover.paths("danlu.stages.report.sections").items()]
    made = [(part, part.make(run)) for part in sorted(found, key=lambda part: (part.order, part.id))]
    return [part.with_body(body) for part, body in made if body]


def _lead(run: RunRecords) -> str:
    """The run in a sentence or two: what learnt from how much, and where it came to."""
    tokens, parameters = run.newest("tokens"), number(run.start.get("parameters") or 0)
    said = []
    if tokens and parameters:
        who = f"A model of {count(parameters)} parameters"
        said.append(f"{who} read {count(tokens)} tokens in {duration(run.seconds)}.")
    series = run.metric(run.judged)
    if len(series.finite) > 1 and run.best:
        best = number(run.best["metrics"][run.judged])  # type: ignore[index]
        first = shown(run.judged, series.finite[0])
        said.append(f"On data kept aside, its {label(run.judged)} went from {first} to {shown(run.judged, best)}.")
    return " ".join(said)


def _what_stands(run: RunRecords) -> str:
    """For a run that did not come to its end: what was found, what is safe, and how to go on."""
    if run.status in ("finished", "stopped"):
        return ""
    serious = [str(record["sentence"]) for record in run.of("finding") if record.get("severity") == "serious"]
    said = [_sentence(sentence) for sentence in serious[-1:]]
    saved = run.of("checkpoint")
    if saved:
        said.append(f"The checkpoint of step {saved[-1]['step']} stands; resume goes on from there.")
    else:
        said.append("No checkpoint was written, so there is nothing to resume from.")
    if saved and not all(map(math.isfinite, run.reading("loss").ys)):
        said.append("Change what broke it first: resumed as it is, it may break again.")
    return " ".join(said)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".!?" else f"{text}."
