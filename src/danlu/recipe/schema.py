"""The JSON Schema of a recipe, tasks and techniques included, for editors that complete and check YAML."""

from typing import Any

from pydantic import BaseModel

from danlu.core.technique import Technique
from danlu.recipe.parts import all_of
from danlu.recipe.recipe import Recipe
from danlu.tasks.base import Task

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Node = dict[str, Any]


def recipe_schema() -> Node:
    """The schema; descriptions are the classes' docstrings. What only the classes can check is left to them."""
    schema = Recipe.model_json_schema()
    parts: dict[str, Node] = schema["$defs"]
    sections: dict[str, Node] = schema["properties"]
    tasks = {name.replace("_", "-"): cls for name, cls in all_of("danlu.tasks", Task).items()}  # type: ignore[type-abstract]
    techniques = all_of("danlu.techniques", Technique)
    sections["task"] = {"description": sections["task"].get("description"), "anyOf": _tasks(tasks, parts)}
    switches = {name: _switch(cls, parts) for name, cls in techniques.items()}
    for holder in (sections, parts["StudyConfig"]["properties"]):
        holder["techniques"] = {
            "description": holder["techniques"].get("description"),
            "type": "object",
            "additionalProperties": False,
            "properties": switches,
        }
    names = {name: sections["track"].pop(name) for name in ("type", "items")}
    sections["track"]["anyOf"] = [{"type": "string"}, names]
    for unused in ("Task", "Technique"):
        parts.pop(unused, None)
    return {"$schema": DIALECT, **schema, "title": "danlu recipe", "required": ["task", "data", "model"]}


def _tasks(tasks: dict[str, type[Task]], parts: dict[str, Node]) -> list[Node]:
    names: Node = {"enum": list(tasks), "description": "a task as it is"}
    return [names, *(_task(name, cls, parts) for name, cls in tasks.items())]


def _task(name: str, cls: type[Task], parts: dict[str, Node]) -> Node:
    schema = _own(cls, parts)
    kinds = list(dict.fromkeys((name, name.replace("-", "_"))))
    schema["properties"] = {"kind": {"enum": kinds}, **schema.get("properties", {})}
    schema["required"] = ["kind", *schema.get("required", [])]
    return schema


def _switch(cls: type[Technique], parts: dict[str, Node]) -> Node:
    schema = _own(cls, parts)
    about = schema.pop("description", "")
    return {"description": about, "anyOf": [schema, {"type": "boolean"}, {"enum": ["on", "off"]}, {"type": "null"}]}


def _own(cls: type[BaseModel], parts: dict[str, Node]) -> Node:
    schema = cls.model_json_schema()
    parts.update(schema.pop("$defs", {}))
    return schema
