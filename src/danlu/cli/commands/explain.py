"""danlu explain"""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from danlu.stages.explain import Explanation

POSITION = 20


def command(
    recipe: Annotated[str, typer.Argument(help="A recipe, or the folder of a run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION.KEY=VALUE...", help="Laid over the recipe.", show_default=False),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", "-n", min=1, metavar="N", help="As for danlu train.")] = 1,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the recipe alone, with every default written out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a recipe will do before anything starts.

    Data, model, techniques, dials over the run, memory and time. Nothing is trained or written.
    """
    import dataclasses
    import json

    from danlu.cli.training import read_request

    request = read_request(recipe, overrides or [], out=None, resume=False)
    if resolved:
        from danlu.recipe.resolved import resolved_yaml

        typer.echo(resolved_yaml(request.recipe), nl=False)
        return
    from danlu.stages.explain import explain

    explanation = explain(request.recipe, processes=processes)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(explanation), ensure_ascii=False))
    else:
        _show(explanation)


def _show(explanation: "Explanation") -> None:
    width = max(len(what) for section in explanation.sections for what, _ in section.lines)
    for section in explanation.sections:
        typer.secho(section.title, bold=True)
        for what, how in section.lines:
            typer.echo(f"  {what:<{width}}  {how}")
    for warning in explanation.warnings:
        typer.secho(f"! {warning}", fg="yellow")
