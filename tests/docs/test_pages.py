"""What the pages say must be so: commands exist, recipes load, links lead somewhere."""

import copy
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.recipe import document
from danlu.recipe.load import apply_override, read_tree

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import hooks

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BASE = {
    "task": "text-generation",
    "data": {"train": "builtin:python-stdlib"},
    "model": {"design": {"family": "llama", "layers": 2, "width": 64, "heads": 2}},
}
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def _commands(page: Path) -> Iterator[list[str]]:
    for block in _blocks(page, "bash", "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["danlu"]:
                yield words[1:]


def _laid_over(base: dict[str, object], part: object) -> dict[str, object]:
    tree = copy.deepcopy(base)
    assert isinstance(part, dict)
    for key, value in part.items():
        inside = tree.get(key)
        # `from` and `design` exclude each other, so a model is replaced whole
        merge = isinstance(inside, dict) and isinstance(value, dict) and key != "model"
        tree[key] = {**inside, **value} if merge else value  # type: ignore[dict-item]
    return tree


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_exist_with_their_options(page: Path) -> None:
    program = hooks.program()
    for words in _commands(page):
        if not words or words[0] in ("--help", "--version"):
            continue
        assert words[0] in program.commands, f"{_name(page)} uses `danlu {words[0]}`"
        known = {name for p in program.commands[words[0]].params for name in (*p.opts, *p.secondary_opts)}
        flags = {word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)} - {
            "--help",
            "-h",
            "--debug",
        }
        assert flags <= known, f"{_name(page)}: danlu {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_overrides_are_taken(page: Path) -> None:
    for words in _commands(page):
        if words[0] in ("collect", "evaluate", "inspect", "predict"):  # what they take is not all of the recipe
            continue
        overrides = [word for word in words if re.fullmatch(r"[a-z_]+(\.\w+)*=.*", word)]
        tree = copy.deepcopy(BASE)
        for word in overrides:
            apply_override(tree, word)
        if overrides:
            read_tree(tree)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_yaml_is_part_of_a_recipe(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        read_tree(_laid_over(BASE, document.parse(block, source=_name(page))), source=_name(page))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    generated = {ROOT / "docs" / name for name in ("recipe.md", "commands.md", "techniques/index.md")}
    for target in LINK.findall(text):
        path = target.partition("#")[0]
        if path and "://" not in path and not path.startswith("mailto:"):
            place = (page.parent / path).resolve()
            assert place.exists() or place in generated, f"{_name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_python_compiles_and_its_danlu_exists(page: Path) -> None:
    for block in _blocks(page, "python"):
        compile(block, _name(page), "exec")
        imports = [line for line in block.splitlines() if re.match(r"(from|import) danlu", line)]
        exec("\n".join(imports), names := {})
        assert all(hasattr(names["danlu"], name) for name in re.findall(r"\bdanlu\.(\w+)\(", block))


def test_both_readmes_show_the_same_commands() -> None:
    english, chinese = (list(_commands(ROOT / name)) for name in ("README.md", "README.zh-CN.md"))
    assert [words[:1] for words in english] == [words[:1] for words in chinese]
