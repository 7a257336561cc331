"""The pages that are generated: they name every key, and every key has a meaning."""

import sys
import typing
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from danlu.core.config import Config
from danlu.core.journal import Kind
from danlu.recipe.recipe import Recipe

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import hooks  # noqa: E402
import reference  # noqa: E402


class Inner(Config):
    """Something inside."""

    size: int = 3
    """how large"""


class Outer(Config):
    """A section."""

    kind: Literal["a", "b"] = "a"
    """which one"""
    rate: Annotated[float, Field(gt=0)] | None = None
    """how fast | how slow"""
    names: list[str] = []
    """some names"""
    source: str
    """where from"""
    inner: Inner | None = Inner()
    """what is inside"""


def test_table_says_type_default_and_meaning() -> None:
    rows = reference.table(Outer).splitlines()
    assert "| `kind` | `a` · `b` | `a` | which one |" in rows
    assert "| `rate` | number | – | how fast \\| how slow |" in rows
    assert "| `names` | list of text | `[]` | some names |" in rows
    assert "| `source` | text | must be given | where from |" in rows
    assert "| `inner` | section | see its section | what is inside |" in rows


def test_sections_are_found_at_their_places() -> None:
    assert [(place, cls.__name__) for place, cls in reference.sections(Outer)] == [("", "Outer"), ("inner", "Inner")]


def test_every_key_of_the_recipe_has_a_meaning() -> None:
    missing = [
        f"{place}.{key}"
        for place, cls in reference.sections(Recipe)
        for key, field in reference.keys(cls)
        if not field.description
    ]
    assert not missing


@pytest.mark.parametrize("name", sorted(hooks.techniques()))
def test_every_technique_has_its_page_and_meanings(name: str) -> None:
    assert (DOCS / "techniques" / f"{name}.md").exists()
    assert all(field.description for _key, field in reference.keys(hooks.technique(name)))


def test_the_recipe_page_holds_every_section_technique_and_task() -> None:
    page = hooks.recipe_page()
    for place, _cls in reference.sections(Recipe):
        assert f"`{place}`" in page or not place
    for name in hooks.techniques():
        assert f"[`{name}`](techniques/{name}.md)" in page
    assert "### `text-generation`" in page


def test_the_command_page_holds_every_command() -> None:
    page = hooks.commands_page()
    for word in ("train", "evaluate", "predict", "generate", "explain", "schema", "doctor", "init"):
        assert f"## danlu {word}\n" in page


def test_the_run_folder_page_names_every_kind_of_record() -> None:
    page = (DOCS / "run-folder.md").read_text(encoding="utf-8")
    assert all(f"| `{kind}` |" in page for kind in typing.get_args(Kind))
