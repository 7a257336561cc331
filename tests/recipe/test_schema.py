"""The JSON Schema: it takes every recipe we ship and refuses what the classes refuse by name or type."""

import copy
from pathlib import Path
from typing import Any

import pytest

from danlu.core import discover
from danlu.recipe import document
from danlu.recipe.schema import recipe_schema

jsonschema = pytest.importorskip("jsonschema")
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def checker() -> Any:
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_takes_our_recipes(checker: Any, path: Path) -> None:
    tree = document.parse(path.read_text(), source=str(path))
    assert list(checker.iter_errors(tree)) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("trian",), {}),
        (("train", "budgt"), {"steps": 1}),
        (("train", "precision"), "fp33"),
        (("train", "optimizer", "kind"), "adamww"),
        (("techniques", "dropuot"), True),
        (("techniques", "grad_clip"), {"nrom": 1}),
        (("task",), "text-generatoin"),
        (("data", "context"), "big"),
        (("control",), "aut"),
    ],
)
def test_it_refuses_what_is_wrong(checker: Any, place: tuple[str, ...], value: object) -> None:
    tree = copy.deepcopy(document.parse(RECIPES[-1].read_text(), source="r"))
    here: Any = tree
    for part in place[:-1]:
        here = here[part]
    here[place[-1]] = value
    assert list(checker.iter_errors(tree))


def test_it_holds_everything_that_is_found_by_path_with_descriptions(checker: Any) -> None:
    sections = checker.schema["properties"]
    assert set(sections["techniques"]["properties"]) == set(discover.paths("danlu.techniques"))
    assert all(entry["description"] for entry in sections["techniques"]["properties"].values())
    tasks = sections["task"]["anyOf"][0]["enum"]
    assert {name.replace("-", "_") for name in tasks} == set(discover.paths("danlu.tasks"))
    assert all(section.get("description") or section.get("$ref") for section in sections.values())
