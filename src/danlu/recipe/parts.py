"""How a recipe names what is found by path: its task and its techniques."""

from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainSerializer, ValidationError

from danlu.core import discover
from danlu.core.errors import RequestError
from danlu.core.technique import Technique
from danlu.recipe.problems import Place, Problem, ProblemsError, problems_of
from danlu.tasks.base import Task

_SWITCH = {"on": True, "yes": True, "off": False, "no": False}
M = TypeVar("M", bound=BaseModel)


def all_of(package: str, parent: type[M]) -> dict[str, type[M]]:
    """Name → class of everything found below `package`, in the order of the names."""
    return {name: discover.find(package, name, parent) for name in sorted(discover.paths(package))}


def _find(package: str, name: str, parent: type[M], place: Place) -> type[M]:
    try:
        return discover.find(package, name, parent)
    except RequestError as error:
        mend = error.mend.replace("_", "-") if error.mend and parent is Task else error.mend
        raise ProblemsError([Problem(place=place, problem=error.problem, mend=mend)]) from None


def _make(cls: type[M], options: Mapping[str, object], place: Place) -> M:
    try:
        return cls.model_validate(dict(options))
    except ValidationError as error:
        raise ProblemsError(problems_of(error, cls, place)) from None


def _read_task(value: object) -> object:
    """`kind`, or `{kind: ..., option: ...}`, or a Task."""
    if isinstance(value, Task):
        return value
    options = {"kind": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
    place = ("kind",) if isinstance(value, Mapping) else ()
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        mend = "Say which task, such as text-generation"
        raise ProblemsError([Problem(place=place, problem="must be the name of a task", mend=mend)])
    return _make(_find("danlu.tasks", kind, Task, place), options, ())  # type: ignore[type-abstract]


def _write_task(task: Task) -> object:
    options = task.model_dump(mode="json", by_alias=True)
    return {"kind": task.kind(), **options} if options else task.kind()


def _read_techniques(value: object) -> object:
    """`{name: {option: ...} | true | false}`, or Technique objects; those that are switched off are left out."""
    if not isinstance(value, Mapping):
        return value
    made: list[Technique] = []
    wrong: list[Problem] = []
    for name, options in value.items():
        try:
            made += _read_technique(str(name), options)
        except ProblemsError as problems:
            wrong += problems.problems
    if wrong:
        raise ProblemsError(wrong)
    return tuple(made)


def _read_technique(name: str, options: object) -> list[Technique]:
    switch = _SWITCH.get(options, options) if isinstance(options, str) else options
    cls = _find("danlu.techniques", name, Technique, (name,))
    if switch is False:
        return []
    if switch is True or switch is None:
        switch = {}
    if not isinstance(switch, Mapping):
        problem = "must be true, false or a section with its options"
        mend = f"Its options are {', '.join(cls.model_fields)}" if cls.model_fields else None
        raise ProblemsError([Problem(place=(name,), problem=problem, mend=mend)])
    return [_make(cls, switch, (name,))]


def _by_name(techniques: tuple[Technique, ...]) -> tuple[Technique, ...]:
    """The order in which they are given means nothing, so that equal recipes are equal."""
    return tuple(sorted(techniques, key=lambda technique: technique.name()))


def _write_techniques(techniques: Iterable[Technique]) -> dict[str, object]:
    return {technique.name(): technique.model_dump(mode="json", by_alias=True) or True for technique in techniques}


TaskPart = Annotated[Task, BeforeValidator(_read_task), PlainSerializer(_write_task)]
"""A Task; in YAML its name, or `{kind: name, option: ...}`"""
TechniqueParts = Annotated[
    tuple[Technique, ...],
    BeforeValidator(_read_techniques),
    AfterValidator(_by_name),
    PlainSerializer(_write_techniques),
]
"""Techniques; in YAML `{name: {option: ...} | true | false}`"""
