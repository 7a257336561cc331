"""The resolved recipe: every default written out, as YAML that loads again to an equal recipe."""

from typing import Any

from pydantic import BaseModel

from danlu.recipe import document
from danlu.recipe.recipe import Recipe


def resolved_tree(recipe: Recipe) -> dict[str, object]:
    """The recipe as plain values. A key whose value and default are both "nothing" is left out."""
    tree: dict[str, object] = recipe.model_dump(mode="json", by_alias=True)
    return _tidy(tree, recipe)


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe as YAML, each section on its own."""
    return document.dump(resolved_tree(recipe))


def given_tree(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says itself, without defaults, `tune` and `study`; what follows from a changed key follows."""
    tree: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for other_stage in ("tune", "study"):
        tree.pop(other_stage, None)
    optimizer = tree.get("train", {}).get("optimizer", {})
    usual = type(recipe.train.optimizer)(kind=recipe.train.optimizer.kind).model_dump(mode="json", by_alias=True)
    for name in [name for name in optimizer if name not in ("kind", "lr") and optimizer[name] == usual[name]]:
        del optimizer[name]  # another kind has other usual values, and may not know this one
    return tree


def _tidy(tree: dict[str, object], made: BaseModel) -> dict[str, object]:
    kept = dict(tree)
    for name, field in type(made).model_fields.items():
        key, value = field.alias or name, getattr(made, name)
        inner = kept.get(key)
        if value is None and field.default is None:
            kept.pop(key, None)
        elif isinstance(inner, dict) and isinstance(value, BaseModel):
            kept[key] = _tidy(inner, value)
    return kept
