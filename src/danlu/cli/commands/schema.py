"""danlu schema"""

import typer

POSITION = 90


def command() -> None:
    """Print the JSON Schema of recipes, for editors.

    Save it (danlu schema > recipe.schema.json) and begin a recipe with the line
    "# yaml-language-server: $schema=recipe.schema.json": the editor then completes and checks keys.
    """
    from danlu.stages.schema import schema

    typer.echo(schema())
