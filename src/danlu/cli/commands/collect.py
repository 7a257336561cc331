"""danlu collect"""

from pathlib import Path
from typing import Annotated

import typer

POSITION = 44
SAY_EVERY = 20


def command(
    driver: Annotated[str, typer.Argument(help="Who drives: a run or a model's folder, or planner.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="Of the decision task: environment=highway_env:highway-fast-v0",
            show_default=False,
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the first; the others follow.")] = 0,
    noise: Annotated[float, typer.Option(min=0.0, max=1.0, help="The share of random actions.")] = 0.0,
    planned: Annotated[float, typer.Option(min=0.0, max=1.0, help="The share of steps that the planner drives.")] = 0.0,
    labels: Annotated[bool, typer.Option("--labels/--no-labels", help="Write what the planner would do.")] = True,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write the episodes there, for data.train.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")] = False,
) -> None:
    """Play episodes with a model or a planner.

    Prints return, crashes and speed with their 95 % intervals; the episodes are data to learn from.
    """
    import json

    from danlu.cli.words import options_of
    from danlu.stages.collect import Collecting, collect

    played = 0

    def say(_episode: object) -> None:
        nonlocal played
        played += 1
        if played % SAY_EVERY == 0 and not as_json:
            typer.echo(f"{played} of {episodes} episodes", err=True)

    how = Collecting(episodes=episodes, seed=seed, noise=noise, planned=planned, labelled=labels)
    metrics = collect(driver, how, out=out, options=options_of(options or []), say=say)
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    width = max(map(len, metrics))
    for name, value in metrics.items():
        typer.echo(f"{name:<{width}}  {value:.6g}")
