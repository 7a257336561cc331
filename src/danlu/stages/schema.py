"""Schema: the recipe's JSON Schema as text."""

import json


def schema() -> str:
    """The JSON Schema that validates recipes; point your editor's YAML plug-in at it."""
    from danlu.recipe.schema import recipe_schema

    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False)
