"""danlu init"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from danlu.stages.init import Look

POSITION = 10


def command(
    task: Annotated[str | None, typer.Option(metavar="TASK", help="What the model shall learn.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="File, folder, glob, hub name or builtin:NAME.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Hub name, folder or .gguf file to start from.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The recipe to write.  [default: NAME.yaml]")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is proposed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")] = False,
) -> None:
    """Look at your data and write a commented recipe that runs.

    Asks for what the options leave open; with --yes it asks nothing.
    """
    from danlu.stages import init

    ask = not yes
    data = data or (
        typer.prompt("Your data (file, folder, hub name or builtin:NAME)") if ask else "builtin:python-stdlib"
    )
    look = init.look_at(data)
    _show(look)
    task = task or (_ask_task() if ask else "text-generation")
    if model is None and ask:
        model = typer.prompt("A model to start from (hub name or folder; empty for a new one)", default="") or None
    text = init.propose(look, task=task, model=model)
    name = text.partition("\nname: ")[2].partition("\n")[0]
    chosen = out or Path(typer.prompt("Write the recipe to", default=f"{name}.yaml") if ask else f"{name}.yaml")
    init.write_recipe(text, chosen, over=force)
    typer.echo(f"\nWrote {chosen}. Next:\n  danlu explain {chosen}\n  danlu train {chosen}")


def _ask_task() -> str:
    from danlu.core import discover

    tasks = [name.replace("_", "-") for name in sorted(discover.paths("danlu.tasks"))]
    if len(tasks) == 1:
        return tasks[0]
    return str(typer.prompt(f"What shall the model learn ({', '.join(tasks)})", default="text-generation"))


def _show(look: "Look") -> None:
    from danlu.core.words import count, size

    columns = ", ".join(f"{role} = {column}" for role, column in look.columns.by_role.items())
    rows = (
        ("data", f"{look.num_files} file(s), {size(look.num_bytes)}, {', '.join(look.formats)}"),
        ("columns", f"{', '.join(look.fields)}; taken as {columns}"),
        (
            "rows",
            f"of {look.num_rows_seen} seen: half below {count(look.median_bytes)} bytes, 95 % below "
            f"{count(look.long_bytes)}, longest {count(look.longest_bytes)}",
        ),
        ("begins", look.example),
    )
    for label, text in rows:
        typer.echo(f"  {label:<8} {text}")
