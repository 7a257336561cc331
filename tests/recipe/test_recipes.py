"""The recipes that we ship load, and loading what they resolve to gives the same again."""

from pathlib import Path

import pytest

from danlu.recipe import document
from danlu.recipe.load import load_recipe, read_tree
from danlu.recipe.resolved import resolved_yaml

FOLDER = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_loads_and_resolves(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    tree = document.parse(resolved_yaml(recipe), source="resolved")
    assert isinstance(tree, dict)
    assert read_tree(tree) == recipe


def test_their_data_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.data.sources import open_source

    monkeypatch.chdir(FOLDER.parent)
    for path in FOLDER.glob("*.yaml"):
        sources = load_recipe(path).data.train_sources
        if sources[0].startswith(".data/"):  # never committed; the header says how it is fetched
            name, header = Path(sources[0]).parts[1], path.read_text(encoding="utf-8")
            assert f"python benchmarks/data.py {name}" in header or f"into .data/{name}" in header
            continue
        if sources[0] == "builtin:highway":  # played for minutes the first time; tests/data tries its parts
            continue
        assert open_source(sources).num_bytes > 0
