"""Writes reference pages from the classes themselves, so that the pages cannot drift from what the code takes."""

import inspect
import re
import types
import typing
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WORDS = {int: "whole number", float: "number", bool: "true, false", str: "text", type(None): "none"}


def sections(cls: type[BaseModel], place: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every class below `cls` with the dotted place at which a recipe holds it, in the order of the keys."""
    yield place, cls
    for key, field in keys(cls):
        for inner in classes(field.annotation):
            yield from sections(inner, f"{place}.{key}" if place else key)


def keys(cls: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """Key as written in a recipe → field."""
    return [(field.alias or name, field) for name, field in cls.model_fields.items()]


def classes(annotation: object) -> list[type[BaseModel]]:
    """The sections that an annotation allows; parts that are found by path (abstract ones) have pages of their own."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation] if annotation.model_fields else []
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [cls for part in typing.get_args(annotation) for cls in classes(part)]
    return []


def table(cls: type[BaseModel]) -> str:
    """The keys of one class: name, what it takes, its default, its meaning."""
    if not cls.model_fields:
        return "It has no options.\n"
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key, field in keys(cls):
        cells = (f"`{key}`", takes(field.annotation), default(field), meaning(field))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def takes(annotation: object) -> str:
    """A type in words that a person who never saw Python reads."""
    if annotation in _WORDS:
        return _WORDS[annotation]  # type: ignore[index]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " · ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(takes(part) for part in parts if part is not type(None)))
    if origin is typing.Annotated:
        return takes(parts[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "name, or section with `kind`" if _is_named(annotation) else "section"
    if origin is tuple and _is_named(parts[0]):
        return "section of name: options"
    if origin in (list, tuple, set, frozenset):
        inner = [takes(part) for part in parts if part is not Ellipsis]
        return "list of " + (inner[0] if inner else "anything")
    if isinstance(origin, type) and issubclass(origin, typing.Mapping):  # type: ignore[arg-type]
        return f"section of name: {takes(parts[-1])}"
    return "anything" if annotation in (object, typing.Any) else getattr(annotation, "__name__", "value").lower()


def _is_named(annotation: object) -> bool:
    """True for the parent of what is found by path and named by its file."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel) and not annotation.model_fields


def default(field: FieldInfo) -> str:
    """The value that stands when the key is not given."""
    if field.is_required():
        return "must be given"
    if field.default_factory_takes_validated_data:
        return "follows from the others"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "–"
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        plain = given and not any(isinstance(entry, dict) for entry in given.values())
        return f"`{_inline(given)}`" if plain else "see its section"
    return f"`{_inline(value)}`"


def _inline(value: object) -> str:
    """YAML on one line, as it would stand in a recipe."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_inline(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_inline(entry) for entry in value) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value) if value != "" else "''"


def meaning(field: FieldInfo) -> str:
    """The docstring below the attribute, on one line."""
    return " ".join((field.description or "").split())


def about(thing: object) -> str:
    """The docstring of a class or function, as paragraphs, without what only a programmer asks for."""
    text = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    return re.split(r"\n\n(?:Args|Raises|Returns):\n", text)[0]


def command_page(program: typing.Any, name: str) -> str:
    """Every command of a typer application: what it is for, its arguments and its options."""
    parts = []
    for word, command in program.commands.items():
        if command.hidden:
            continue
        context = command.context_class(command, info_name=f"{name} {word}")
        usage = " ".join([name, word, "[OPTIONS]", *_arguments(command)])
        parts.append(f"## {name} {word}\n\n{_help(command)}\n\n```text\n{usage}\n```\n")
        rows = [
            _parameter(parameter, context) for parameter in command.params if not getattr(parameter, "hidden", False)
        ]
        if rows:
            parts.append("\n".join(["| | meaning | default |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _arguments(command: typing.Any) -> list[str]:
    names = [(_metavar(entry), entry.required) for entry in command.params if entry.param_type_name == "argument"]
    return [name if required or name.startswith("[") else f"[{name}]" for name, required in names]


def _metavar(argument: typing.Any) -> str:
    return argument.metavar or argument.name.upper()


def _help(command: typing.Any) -> str:
    return inspect.cleandoc(command.help or "").replace("\b", "").partition("\f")[0].strip()


def _parameter(parameter: typing.Any, context: typing.Any) -> str:
    option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if option else [_metavar(parameter)]
    value = None if parameter.required else parameter.get_default(context)
    shown = "" if value is None or value is False or value in ((), []) else f"`{value}`"
    cells = (
        ", ".join(f"`{entry}`" for entry in names),
        parameter.help or "",
        "must be given" if parameter.required else shown,
    )
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
