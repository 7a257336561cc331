"""What `danlu train` does between the words on its command line and the stage."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from danlu.cli.live import Listener, Manner
from danlu.cli.words import metrics_line, rate
from danlu.core.errors import RequestError
from danlu.core.words import duration
from danlu.recipe.load import load_recipe
from danlu.recipe.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A run that was asked for; `out` is None when the stage is to choose the folder."""

    recipe: Recipe
    out: Path | None
    resume: bool


def read_request(recipe: str, words: Sequence[str], *, out: Path | None, resume: bool) -> Request:
    """The recipe with its overrides, and where the run is.

    A run's folder may stand for a recipe (then it is the recipe that the run resolved), and with `resume` it may also
    stand among the overrides, as in `danlu train recipe.yaml --resume runs/name/3`.

    Raises:
        RequestError: the recipe or an override is wrong, or two different runs are given.
    """
    folders = [Path(word) for word in words if "=" not in word and (Path(word) / "recipe.yaml").is_file()]
    overrides = [word for word in words if Path(word) not in folders]
    source = Path(recipe)
    if source.is_dir() and (source / "recipe.yaml").is_file():
        folders, source = ([source, *folders] if resume else folders), source / "recipe.yaml"
    runs = list(dict.fromkeys(path.resolve() for path in [*([out] if out else []), *folders]))
    if folders and not resume:
        raise RequestError("this is a run's folder", where=str(folders[0]), mend="To go on with it add --resume")
    if len(runs) > 1:
        raise RequestError(f"two runs are given: {runs[0]} and {runs[1]}", where="--resume", mend="Give one of them")
    return Request(recipe=load_recipe(source, overrides), out=out or (folders[0] if folders else None), resume=resume)


def run(request: Request, listeners: Sequence[Listener]) -> Path:
    """Trains; returns the run's folder."""
    from danlu.stages.train import train

    return train(request.recipe, out=request.out, resume=request.resume, listeners=listeners)


def tell_ending(folder: Path, manner: Manner) -> int:
    """Prints how the run ended, from its summary, and returns the exit code: 128 + signal when one stopped it."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    code = {"signal SIGINT": 130, "signal SIGTERM": 143}.get(str(summary.get("reason")), 0)
    if manner == "json":
        return code
    say: Callable[[str], None] = typer.echo
    speed = summary.get("speed") or {}
    words = [f"{summary['status']} after {summary['steps']} steps"]
    words += [duration(speed["seconds"])] if speed.get("seconds") else []
    words += [rate(speed[name], name) for name in ("tokens_per_second", "examples_per_second") if speed.get(name)][:1]
    say(" · ".join(words) + (f" ({summary['reason']})" if summary.get("reason") else ""))
    best = (summary.get("metrics") or {}).get("best")
    if best:
        say(f"  best     {metrics_line(best)}")
    for label, path in (("model", folder / "model"), ("report", folder / "report.html"), ("run", folder)):
        if path.exists():
            say(f"  {label:<8} {path}")
    if code:
        say(f"  go on    danlu train {folder} --resume")
    return code
