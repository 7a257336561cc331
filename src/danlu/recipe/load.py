"""From a file, a mapping and `section.key=value` words to a Recipe.

Relative paths inside a recipe are relative to the folder in which the command is run, like those of any other tool;
where the recipe itself lies does not matter.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from danlu.core.errors import RequestError, nearest
from danlu.recipe import document
from danlu.recipe.problems import Locate, Place, Problem, RecipeError
from danlu.recipe.recipe import Recipe

Tree = dict[str, object]


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `section.key=value` words laid over it.

    The name is the file's when the recipe gives none.

    Raises:
        RequestError: there is no such file, it is not YAML, or an override is not of the form section.key=value.
        RecipeError: the recipe is wrong somewhere; the message holds every problem with its place and line.
    """
    path = Path(path)
    text = _read(path)
    tree = document.parse(text, source=str(path))
    if not isinstance(tree, dict):
        problem = "a recipe is a list of sections, such as task, data, model and train, each `key: value`"
        raise RequestError(problem, where=str(path), mend="`danlu init` writes one to start from")
    tree.setdefault("name", path.parent.name if path.name == "recipe.yaml" and path.parent.name else path.stem)
    said = [apply_override(tree, word) for word in overrides]
    return read_tree(tree, source=str(path), locate=_locator(document.lines(text), said))


def read_tree(tree: Mapping[str, object], *, source: str | None = None, locate: Locate | None = None) -> Recipe:
    """The recipe that a mapping holds (YAML or JSON, already read)."""
    try:
        return Recipe.model_validate(_without_empty(tree, depth=0))
    except RecipeError as error:
        raise RecipeError(error.problems, source=source, locate=locate) from None


def _without_empty(tree: Mapping[str, object], *, depth: int) -> dict[str, object]:
    """What stands there without a value (all below it is commented out) is as good as not given.

    Among techniques an empty one is switched on, so these stay as they are.
    """
    kept: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and not (depth == 0 and name == "techniques"):
            value = _without_empty(value, depth=depth + 1)
        if value is not None:
            kept[str(name)] = value
    return kept


def apply_override(tree: Tree, word: str) -> Place:
    """Lays `section.key=value` over the tree; the value is read as YAML. Returns the place that it changed.

    A section that is only switched on (`dropout: true`) or named (`task: text-generation`) becomes one with options.
    """
    name, equals, value = word.partition("=")
    place = tuple(part.strip() for part in name.split("."))
    if not equals or not all(place):
        mend = "For example train.optimizer.lr=3e-4, or techniques.dropout=false"
        raise RequestError("an override is written section.key=value", where=word, mend=mend)
    here: Tree = tree
    for depth, part in enumerate(place[:-1]):
        inside = here.get(part)
        if isinstance(inside, str) and place[: depth + 1] == ("task",):
            inside = {"kind": inside}
        if not isinstance(inside, dict):
            if isinstance(inside, (list, int, float, str)) and not isinstance(inside, bool):
                where = ".".join(place[: depth + 1])
                raise RequestError(f"{where} is no section, it is {inside!r}", where=word, mend=f"Write {where}=...")
            inside = {}
        here[part] = here = inside
    here[place[-1]] = document.parse_value(value)
    return place


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RequestError("there is no such file", where=str(path), mend=_beside(path)) from None
    except IsADirectoryError:
        raise RequestError("this is a folder, a recipe is a YAML file", where=str(path), mend=_beside(path)) from None
    except UnicodeDecodeError as error:
        problem = f"this is not a text in UTF-8 (byte {error.start})"
        raise RequestError(problem, where=str(path), mend="A recipe is a YAML file") from None
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _beside(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    near = [str(found) for ending in ("*.yaml", "*.yml") for found in folder.glob(ending)] if folder.is_dir() else []
    return nearest(str(path), near) if near else "`danlu init` writes a recipe to start from"


def _locator(written: Mapping[Place, int], said: Sequence[Place]) -> Locate:
    """Says where a place was given: on the command line, or in which line; for a missing key, that of its section."""

    def locate(place: Place) -> str | None:
        if any(given == place[: len(given)] for given in said):
            return "on the command line"
        if place in written:
            return f"line {written[place]}"
        if any(place == given[: len(place)] for given in said):
            return "on the command line"
        lines = [written[place[:depth]] for depth in range(len(place) - 1, 0, -1) if place[:depth] in written]
        return f"line {lines[0]}" if lines else None

    return locate


__all__ = ["Problem", "RecipeError", "apply_override", "load_recipe", "read_tree"]
