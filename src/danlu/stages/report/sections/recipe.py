"""The recipe, folded away."""

from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html

TITLE = "Recipe"
ORDER = 90


def section(run: RunRecords) -> Html | None:
    """recipe.yaml as it was saved with the run, every default written out."""
    return render("recipe", text=run.recipe_text.strip()) if run.recipe_text.strip() else None
