"""Templates of the report: every value is escaped, for samples and data are text that nobody has vouched for."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

import danlu

FOLDER = Path(__file__).parent / "templates"


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def render(template: str, **values: object) -> Markup:
    """The template `templates/NAME.html.jinja` filled in."""
    return Markup(_environment().get_template(f"{template}.html.jinja").render(**values))


def asset(name: str) -> Markup:
    """A style sheet or script of ours, to be set into the page as it is."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def sheet(kind: str, *, name: str, lead: str, parts: Sequence[tuple[str, str, Markup | None]], folder: Path) -> Markup:
    """A page of its own about several runs: `parts` are (id, title, content), those without content left out."""
    return render(
        "sheet",
        kind=kind,
        version=danlu.__version__,
        name=name,
        style=asset("style.css"),
        lead=lead,
        parts=[part for part in parts if part[2]],
        folder=str(folder),
    )
