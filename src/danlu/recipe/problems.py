"""What is wrong with a recipe: every problem with its place, in one message, in plain words."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import BaseModel, ValidationError

from danlu.core import discover
from danlu.core.errors import RequestError, nearest

Place = tuple[str | int, ...]
Locate = Callable[[Place], str | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: `place` is the path of keys to it; `problem` and `mend` carry no full stop."""

    place: Place
    problem: str
    mend: str | None = None


class ProblemsError(ValueError):
    """Raised inside a validator that found several things wrong, at places below its own."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(_line(problem, None) for problem in self.problems))


class RecipeError(RequestError):
    """Everything that is wrong with one recipe.

    Args:
        problems: at least one.
        source: the file's name, or None for a recipe made in Python.
        locate: gives the line (or the command line) where a place was written, when that is known.
    """

    def __init__(self, problems: Sequence[Problem], *, source: str | None = None, locate: Locate | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems[0].problem, where=dotted(self.problems[0].place), mend=self.problems[0].mend)
        head = f"{source}: " if source else ""
        lines = [_line(problem, locate) for problem in self.problems]
        if len(lines) > 1:
            head += f"{len(lines)} things are wrong."
            lines = ["", *(f"  {line}" for line in lines)]
        self.args = (head + "\n".join(lines),)


def dotted(place: Place) -> str:
    """`("track", 0)` as `track[0]`, `("train", "budget")` as `train.budget`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def problems_of(error: ValidationError, parent: type[BaseModel], place: Place = ()) -> list[Problem]:
    """Pydantic's errors in our words; what concerns the same place (the branches of a union) becomes one problem."""
    gathered: dict[Place, list[Problem]] = {}
    for entry in error.errors(include_url=False):
        for problem in _one(dict(entry), parent, place):
            gathered.setdefault(problem.place, []).append(problem)
    return [_merged(problems) for problems in gathered.values()]


def _one(entry: Mapping[str, typing.Any], parent: type[BaseModel], place: Place) -> list[Problem]:
    keys, owner = _walk(entry["loc"], parent)
    inner = entry.get("ctx", {}).get("error")
    here = place + keys
    if entry["type"] == "default_factory_not_called":  # what it follows from is wrong, and said so elsewhere
        return []
    if isinstance(inner, ValidationError):
        return problems_of(inner, owner or parent, here)
    if isinstance(inner, ProblemsError):
        return [dataclasses.replace(problem, place=here + problem.place) for problem in inner.problems]
    if entry["type"] == "extra_forbidden":
        return [Problem(place=here, problem="there is no such key", mend=_where_it_belongs(keys, owner, parent))]
    problem, mend = _words(entry)
    return [Problem(place=here, problem=problem, mend=mend)]


def _walk(loc: Place, parent: type[BaseModel]) -> tuple[Place, type[BaseModel] | None]:
    """The keys of `loc` without pydantic's own marks (union branches), and the class that holds the last key."""
    keys: list[str | int] = []
    owner: type[BaseModel] | None = parent
    annotation: object = parent
    for position, part in enumerate(loc):
        classes = _classes(annotation)
        fields = {name: field for cls in classes for name, field in _fields(cls).items()}
        if isinstance(part, str) and part in fields:
            owner = next(cls for cls in classes if part in _fields(cls))
            annotation = fields[part]
        elif isinstance(part, int) or (position == len(loc) - 1 and classes and not _is_mark(part, annotation)):
            owner, annotation = (classes[0] if classes else owner), _item(annotation)
        elif _is_mark(part, annotation):
            continue
        else:
            annotation = _item(annotation)
        keys.append(part)
    return tuple(keys), owner


def _fields(cls: type[BaseModel]) -> dict[str, object]:
    """Key as written in a recipe → annotation."""
    return {field.alias or name: field.annotation for name, field in cls.model_fields.items()}


def _classes(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [cls for arg in typing.get_args(annotation) for cls in _classes(arg)]
    return []


def _is_mark(part: str | int, annotation: object) -> bool:
    """True for the name that pydantic puts into a location to say which branch of a union it tried."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return False
    names = {cls.__name__ for cls in _classes(annotation)}
    return isinstance(part, str) and (part in names or part.partition("[")[0] in _MARKS)


_MARKS = {"str", "int", "float", "bool", "list", "tuple", "dict", "literal", "constrained-str", "constrained-int"} | {
    "constrained-float",
    "function-before",
    "function-after",
    "function-wrap",
    "function-plain",
    "none",
}


def _item(annotation: object) -> object:
    """The annotation of what a list, a tuple or a mapping holds."""
    arguments = [arg for arg in typing.get_args(annotation) if arg is not Ellipsis]
    return arguments[-1] if arguments else object


def _where_it_belongs(keys: Place, owner: type[BaseModel] | None, parent: type[BaseModel]) -> str:
    """Help with an unknown key: a close name beside it, else the place elsewhere that has exactly this name."""
    name = str(keys[-1])
    known = list(_fields(owner)) if owner else []
    help_ = nearest(name, known)
    if help_.startswith("Did you mean"):
        return help_
    if name in discover.paths("danlu.techniques"):
        return f"It belongs at techniques.{name}"
    elsewhere = [path for path in _all_places(parent) if path.rpartition(".")[2] == name]
    return f"It belongs at {' or '.join(elsewhere)}" if elsewhere else help_


def _all_places(cls: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for key, annotation in _fields(cls).items():
        found.append(prefix + key)
        for inner in _classes(annotation):
            found += _all_places(inner, f"{prefix}{key}.")
    return found


def _merged(problems: Sequence[Problem]) -> Problem:
    if len(problems) == 1:
        return problems[0]
    wanted = [
        problem.problem.removeprefix("must be ") for problem in problems if problem.problem.startswith("must be ")
    ]
    if len(wanted) == len(problems):
        first = [text.partition(", not ")[0] for text in wanted]
        tail = wanted[0].partition(", not ")[2]
        text = "must be " + " or ".join(dict.fromkeys(first)) + (f", not {tail}" if tail else "")
        return dataclasses.replace(problems[0], problem=text)
    telling = [problem for problem in problems if not problem.problem.startswith("must be ")]
    return dataclasses.replace(telling[0], problem="; ".join(dict.fromkeys(problem.problem for problem in telling)))


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a section of key: value pairs",
    "mapping": "a section of key: value pairs",
    "model": "a section of key: value pairs",
    "path": "a path",
}
_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


def _words(entry: Mapping[str, typing.Any]) -> tuple[str, str | None]:
    kind, given, context = str(entry["type"]), entry.get("input"), entry.get("ctx", {})
    if kind == "missing":
        return "is missing", None
    if kind == "literal_error":
        allowed = [part.strip(" '") for part in str(context["expected"]).replace(" or ", ", ").split(",")]
        return f"must be one of {', '.join(allowed)}, not {_shown(given)}", _close(given, allowed)
    if kind in _BOUNDS:
        bound = next(value for value in context.values())
        return f"must be {_BOUNDS[kind]} {bound:g}, not {_shown(given)}", None
    if kind == "value_error":
        text = str(context.get("error", entry["msg"]))
        return text[:1].lower() + text[1:] if text[:2].istitle() else text, None
    if kind == "string_pattern_mismatch":
        return f"must match the pattern {context['pattern']}, not {_shown(given)}", None
    wanted = _KINDS.get(kind.partition("_")[0])
    if wanted:
        return f"must be {wanted}, not {_shown(given)}", None
    return str(entry["msg"])[:1].lower() + str(entry["msg"])[1:], None


def _close(given: object, allowed: Sequence[str]) -> str | None:
    text = nearest(given, allowed) if isinstance(given, str) else ""
    return text if text.startswith("Did you mean") else None


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, (str, int, float)) else "a list" if isinstance(value, list) else "a section"
    return text if len(text) <= 60 else text[:57] + "..."


def _line(problem: Problem, locate: Locate | None) -> str:
    place = dotted(problem.place)
    seen = locate(problem.place) if locate and problem.place else None
    head = f"{place} ({seen}): " if seen else f"{place}: " if place else ""
    return f"{head}{problem.problem}." + (f" {problem.mend}." if problem.mend else "")
