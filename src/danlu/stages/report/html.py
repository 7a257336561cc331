"""Templates of the report: every value is escaped, for samples and data are text that nobody has vouched for."""

import functools
from pathlib import Path

import jinja2
from markupsafe import Markup

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
