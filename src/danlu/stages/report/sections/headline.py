"""The numbers that a person came for, each with what it means."""

import math
from collections.abc import Mapping

from danlu.core.journal import number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords, part
from danlu.stages.report.section import Html
from danlu.stages.report.words import count, duration, explained, label, percent, shown, size

TITLE = "In numbers"
ORDER = 10
FIRST = ("bits_per_byte", "perplexity", "accuracy")


def section(run: RunRecords) -> Html | None:
    """Metrics of the best evaluation, then speed and size."""
    numbers = [*_metrics(run), *_speed(run)]
    return render("headline", numbers=numbers) if numbers else None


def _metrics(run: RunRecords) -> list[dict[str, str]]:
    facts = {}
    if isinstance(vocabulary := run.model_config.get("vocab_size"), int):
        facts["vocabulary"] = float(vocabulary)
    record = run.best or (run.of("evaluation")[-1:] or [{}])[0]
    metrics = part(record, "metrics")
    first = (*([] if run.judged == "loss" else [run.judged]), *FIRST)
    names = sorted(metrics, key=lambda name: first.index(name) if name in first else len(first))
    # What never was a number has nothing to be measured on, such as large objects where all are small.
    told = [
        name for name in names if name == "loss" or run.metric(name).finite or not math.isnan(number(metrics[name]))
    ]
    return [_metric(run, name, number(metrics[name]), facts, _answer(metrics)) for name in told]


def _answer(metrics: Mapping[str, object]) -> str:
    if "perplexity" in metrics:
        return "token"
    return "answer" if "accuracy" in metrics else ""


def _metric(run: RunRecords, name: str, value: float, facts: dict[str, float], answer: str) -> dict[str, str]:
    series = run.metric(name)
    first = series.finite[0] if series else math.nan
    change = f"from {shown(name, first)} at step {count(series.xs[0])}" if math.isfinite(first) else ""
    if run.best and run.best["step"] != run.last_step and series.xs[-1] != run.best["step"]:
        change += f", best at step {count(number(run.best['step']))}, {shown(name, series.ys[-1])} at the end"
    return {
        "label": label(name),
        "value": shown(name, value),
        "change": change if len(series.xs) > 1 else f"measured at step {count(series.xs[0])}",
        "words": explained(name, value, facts, answer=answer),
    }


def _speed(run: RunRecords) -> list[dict[str, str]]:
    found = []
    rate = run.reading("tokens_per_second").finite
    if rate:
        middle = sorted(rate)[len(rate) // 2]
        found.append(_plain("tokens per second", count(middle), "The median over the run."))
    mfu = run.reading("mfu").finite
    if mfu:
        words = "Of the arithmetic that this machine can do, the share that went into the model itself (MFU)."
        found.append(_plain("of the machine used", percent(sorted(mfu)[len(mfu) // 2]), words))
    memory = run.reading("memory_bytes").finite
    if memory:
        found.append(_plain("memory at its fullest", size(max(memory)), ""))
    if run.seconds:
        found.append(_plain("time", duration(run.seconds), f"For {count(run.last_step)} steps of the optimiser."))
    return found


def _plain(name: str, value: str, words: str) -> dict[str, str]:
    return {"label": name, "value": value, "change": "", "words": words}
