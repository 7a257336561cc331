"""mkdocs hooks: the pages that are generated from the code, and their places in the navigation."""

import sys
import typing
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import reference


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the page of every task, and of every technique by folder, into the navigation."""
    folders: dict[str, list[str]] = {}
    for name, folder in techniques().items():
        folders.setdefault(folder, []).append(f"techniques/{name}.md")
    for entry in config.nav or []:
        if "Tasks" in entry:
            pages = sorted(Path(config.docs_dir, "tasks").glob("*.md"))
            entry["Tasks"] += [f"tasks/{page.name}" for page in pages]
        if "Findings" in entry:
            entry["Findings"] += [f"findings/{name}.md" for name in findings()]
        if "Techniques" in entry:
            entry["Techniques"] += [{folder.capitalize(): pages} for folder, pages in sorted(folders.items())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {
        "recipe.md": recipe_page(),
        "commands.md": commands_page(),
        "techniques/index.md": techniques_page(),
        "findings/index.md": findings_page(),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adds the options, from the class, to the page of each technique, and the thresholds to that of each finding."""
    name = Path(page.file.src_uri).stem
    if page.file.src_uri.startswith("findings/") and name in findings():
        return f"{markdown.rstrip()}\n\n## Thresholds\n\n{reference.table(diagnosis(name))}\n"
    if not page.file.src_uri.startswith("techniques/") or name not in techniques():
        return markdown
    cls = technique(name)
    slots = ", ".join(f"`{slot}`" for slot in cls.slots()) or "none"
    dials = ", ".join(f"`{dial.name}`" for dial in _dials(cls))
    facts = f"Slots: {slots}." + (f" Dials: {dials}." if dials else "")
    return f"{markdown.rstrip()}\n\n## Options\n\n{reference.table(cls)}\n{facts}\n"


def recipe_page() -> str:
    """The recipe, section by section, with tasks, techniques, optimisers and schedule shapes."""
    from danlu.recipe.recipe import Recipe

    head = """# The recipe

Every key that a recipe may have. This page is written from the classes that read it. A key that is not here is refused,
with the nearest right name. Each is also a word on the command line (`train.optimizer.lr=3e-4`), and `danlu explain
RECIPE --resolved` prints the recipe with every default written out.

"""
    parts = []
    for place, cls in reference.sections(Recipe):
        title = f"## `{place}`" if place else "## The top"
        parts.append(f"{title}\n\n{reference.about(cls)}\n\n{reference.table(cls)}")
        parts += [EXTRA_PARTS[place]()] if place in EXTRA_PARTS else []
    parts.append("## `techniques`\n\n" + techniques_table("techniques/"))
    return head + "\n".join(parts)


def tasks_part() -> str:
    """The tasks and their options."""
    from danlu.core import discover
    from danlu.tasks.base import Task

    parts = ["## `task`\n"]
    for name in sorted(discover.paths("danlu.tasks")):
        cls = discover.find("danlu.tasks", name, Task)
        parts.append(f"### `{cls.kind()}`\n\n{reference.about(cls)}\n\n{reference.table(cls)}")
    return "\n".join(parts)


def optimizers_part() -> str:
    """The optimisers and the options that each takes beside `kind` and `lr`."""
    from danlu.core import discover
    from danlu.optim.base import OptimizerKind
    from danlu.optim.config import KINDS

    parts = []
    for name in sorted(discover.paths(KINDS)):
        cls = discover.find(KINDS, name, OptimizerKind)  # type: ignore[type-abstract]
        parts.append(f"### `kind: {name}`\n\n{reference.about(cls)}\n\n{reference.table(cls)}")
    return "\n".join(parts)


def schedules_part() -> str:
    """The shapes of a schedule, with their formulas and options."""
    from danlu.maths import schedules

    rows = ["| shape | formula | options |", "|---|---|---|"]
    for name, shape in schedules.SHAPES.items():
        about = " ".join(reference.about(shape).split()).replace("|", "\\|")
        options = ", ".join(f"`{option}: {value:g}`" for option, value in schedules.options_of(shape).items())
        rows.append(f"| `{name}` | {about} | {options or '–'} |")
    return "\n".join(rows) + "\n"


EXTRA_PARTS = {"": tasks_part, "train.optimizer": optimizers_part, "train.schedule": schedules_part}


def techniques_page() -> str:
    """The list of all techniques."""
    return f"""# Techniques

A technique is switched on by its name in the recipe's `techniques` section, or on the command line
(`techniques.dropout.p=0.1`), and off with `techniques.dropout=false`. At settings that mean "off" each is exactly the
identity.

{techniques_table("")}
To add your own, see [Add a technique](../add-a-technique.md).
"""


def findings_page() -> str:
    """The list of all findings."""
    rows = ["| finding | when |", "|---|---|"]
    for name in findings():
        about = reference.about(diagnosis(name)).partition("\n\n")[0].replace("\n", " ").removesuffix(":")
        rows.append(f"| [`{name}`]({name}.md) | {about} |")
    head = """# Findings

What a run may say of itself. Each rests on its own readings, written beside it in the journal; a `note` is worth
knowing, a `warning` is a fault, after a `serious` one nothing good can come of the run as it is.

"""
    return head + "\n".join(rows) + "\n"


def findings() -> list[str]:
    """The names of danlu's own findings."""
    from danlu.core import discover

    return sorted(name for name, path in discover.paths("danlu.monitor.findings").items() if path.startswith("danlu."))


def diagnosis(name: str) -> type:
    """The class that finds it."""
    from danlu.core import discover
    from danlu.monitor.findings.base import Diagnosis

    return discover.find("danlu.monitor.findings", name, Diagnosis)


def techniques_table(folder: str) -> str:
    """One line a technique: its name, what it is for, its slots."""
    rows = ["| technique | what it does | slots |", "|---|---|---|"]
    for name in techniques():
        cls = technique(name)
        slots = ", ".join(f"`{slot}`" for slot in cls.slots())
        first = reference.about(cls).partition("\n\n")[0].replace("\n", " ")
        rows.append(f"| [`{name}`]({folder}{name}.md) | {first} | {slots} |")
    return "\n".join(rows) + "\n"


def commands_page() -> str:
    """Every command, from the application itself."""
    head = """# Commands

`danlu COMMAND --help` says the same. Exit codes: 0 done, 1 the run failed (the reason is in its journal and summary), 2
the request was wrong (nothing was started or written).

"""
    return head + reference.command_page(program(), "danlu")


def program() -> typing.Any:
    """The command line as one object."""
    import typer.main

    from danlu.cli.main import _app

    return typer.main.get_command(_app())


def techniques() -> dict[str, str]:
    """Name → folder of every technique of danlu's own."""
    from danlu.core import discover

    own = {name: path.split(".") for name, path in discover.paths("danlu.techniques").items()}
    return {name: path[2] for name, path in own.items() if path[:2] == ["danlu", "techniques"]}


def technique(name: str) -> type:
    """The class that a technique's name stands for."""
    from danlu.core import discover
    from danlu.core.technique import Technique

    return discover.find("danlu.techniques", name, Technique)


def _dials(cls: type) -> list:
    try:
        return list(cls().dials())
    except ValueError:  # it has options that must be given
        return []
