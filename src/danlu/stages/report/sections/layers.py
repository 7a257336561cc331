"""What every layer did, as rows of a heat map: one for each probe whose numbers are by layer."""

import re

from danlu.stages.report.charts import heat
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html

TITLE = "Layer by layer"
ORDER = 40
LOW, HIGH = 1e-5, 1e-2
MOST_ROWS = 64


def section(run: RunRecords) -> Html | None:
    """The update ratio of each layer."""
    names = sorted((name for name in run.reading_names if name.startswith("update_ratio/")), key=_natural)
    rows = [(name.partition("/")[2], run.reading(name)) for name in names]
    caption = (
        "How much a step changes a layer, beside how large the layer is. Around 0.001 is a good rule of thumb. A pale "
        "row hardly learns; a dark one jumps about."
    )
    if len(rows) > MOST_ROWS:
        every = -(-len(rows) // MOST_ROWS)
        caption += f" Of {len(rows)} layers, each {every}th is drawn."
        rows = rows[::every]
    figure = heat(rows, title="Update ratio", caption=caption, low=LOW, high=HIGH)
    return render("curves", main=figure, small=[], more=[]) if figure else None


def _natural(name: str) -> list[tuple[int, int | str]]:
    """layers.2 before layers.10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]
