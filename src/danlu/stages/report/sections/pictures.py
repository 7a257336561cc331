"""The pictures that a classifier gets most wrong, with what it takes them for."""

from danlu.core.journal import number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html
from danlu.stages.report.words import count

TITLE = "The hardest pictures"
ORDER = 23
MOST = 24


def section(run: RunRecords) -> Html | None:
    """Those of the newest samples that are pictures without boxes."""
    records = [record for record in run.of("sample") if "picture" in record and "boxes" not in record]
    if not records:
        return None
    step = records[-1]["step"]
    shown = [record for record in records if record["step"] == step][:MOST]
    return render("pictures", pictures=shown, step=count(number(step)))
