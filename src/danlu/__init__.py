"""danlu (丹炉): takes a large model through its whole life from one recipe.

From Python:

    import danlu
    folder = danlu.train(danlu.load_recipe("recipe.yaml", ["train.budget.steps=100"]))

Nothing heavy is imported before one of these names is used.
"""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "Recipe": "danlu.recipe.recipe",
    "TrainConfig": "danlu.recipe.recipe",
    "load_recipe": "danlu.recipe.load",
    "resolved_yaml": "danlu.recipe.resolved",
    "DanluError": "danlu.core.errors",
    "RequestError": "danlu.core.errors",
    "RunError": "danlu.core.errors",
}


def __getattr__(name: str) -> object:
    if name == "train":  # a package that may be called
        return importlib.import_module("danlu.train")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'danlu' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS, "train"])
