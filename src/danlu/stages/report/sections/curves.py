"""Curves over steps: the loss first, then what steers it and what it costs."""

from collections.abc import Callable

from danlu.core.journal import number
from danlu.stages.report.charts import Line, Mark, chart
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html
from danlu.stages.report.words import count, duration, label, percent, shown, significant, size

TITLE = "How it learnt"
ORDER = 30

Show = Callable[[float], str]
KNOWN: dict[str, tuple[str, Show, str]] = {
    "learning_rate": ("Learning rate", significant, "How far each step goes along the gradient."),
    "grad_norm": (
        "Gradient norm",
        significant,
        "How steep the loss is. Spikes are batches that pull hard; a rising line is a warning.",
    ),
    "tokens_per_second": ("Tokens per second", count, "Dips are evaluations, checkpoints or a busy machine."),
    "mfu": ("Share of the machine used", percent, "Arithmetic of the model over what the machine was measured to do."),
    "data_wait_seconds": ("Waiting for data", duration, "Time that a step stood still until its batch was there."),
    "memory_bytes": ("Memory", size, ""),
}
HIDDEN = ("loss", "data_wait_share")
SAME = {"examples_per_second": "tokens_per_second"}
"""readings that tell nothing new beside another one"""


def section(run: RunRecords) -> Html | None:
    """The loss as a large chart; what was judged and the usual readings as small ones; the others folded away."""
    main = _loss(run)
    small = [figure for name in run.metric_names if (figure := _metric(run, name))]
    small += [figure for name in _order(run) if name in KNOWN and (figure := _reading(run, name))]
    more = [figure for name in _order(run) if name not in KNOWN and (figure := _reading(run, name))]
    return render("curves", main=main, small=small, more=more) if main or small or more else None


def _loss(run: RunRecords) -> Html | None:
    valid = run.metric("loss")
    happened = [Mark(step=number(r["step"]), title=str(r.get("name", "finding"))) for r in run.of("finding")]
    return chart(
        [
            Line(label="training", series=run.reading("loss"), style="plain"),
            Line(label="kept aside", series=valid, style="accent"),
        ],
        title="Loss",
        caption="Lower is better. Training data are seen while learning; those kept aside never are. When the second "
        "line rises while the first still falls, the model has begun to learn by heart."
        + (" Dotted uprights are findings; the timeline names them." if happened else ""),
        marks=happened,
        tall=True,
        until=run.last_step,
    )


def _metric(run: RunRecords, name: str) -> Html | None:
    if name == "loss" or len(run.metric(name).finite) < 2:
        return None
    line = Line(label="kept aside", series=run.metric(name), style="accent")
    return chart([line], title=label(name).capitalize(), show=lambda value: shown(name, value), until=run.last_step)


def _reading(run: RunRecords, name: str) -> Html | None:
    title, show, caption = KNOWN.get(name, (label(name).capitalize(), significant, ""))
    series = run.reading(name)
    if name not in KNOWN and len(set(series.finite)) < 2:
        return None
    line = Line(label="", series=series)
    return chart([line], title=title, caption=caption, show=show, from_zero=name in KNOWN, until=run.last_step)


def _order(run: RunRecords) -> list[str]:
    """The readings that are drawn here: the known ones first, then whatever else a probe gave; not those by layer."""
    names = [name for name in run.reading_names if name not in HIDDEN and SAME.get(name) not in run.reading_names]
    rest = [name for name in names if name not in KNOWN and ("/" not in name or name.startswith("loss/"))]
    return [name for name in KNOWN if name in names] + rest
