"""Metrics of the user's own, named `module:function` in a recipe: shared by the tasks."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import RequestError, nearest

OwnMetric = Callable[..., Any]


def own_metrics(asked: Sequence[str], *, where: str = "task.metrics") -> dict[str, OwnMetric]:
    """Name → function, imported; a module is looked for as Python does, and in the folder that danlu runs in.

    Raises:
        RequestError: there is no such module or function, or it cannot be called.
    """
    found = {}
    for entry in asked:
        module, _, name = entry.partition(":")
        if not module or not name:
            raise RequestError(f"{entry!r} names no function", where=where, mend="Write module:function")
        function = getattr(_imported(module, entry, where), name, None)
        if not callable(function):
            known = [key for key, value in vars(_imported(module, entry, where)).items() if callable(value)]
            raise RequestError(f"{module} has no function {name!r}", where=where, mend=nearest(name, known))
        found[name] = function
    return found


def measured(metrics: Mapping[str, OwnMetric], *arguments: object) -> dict[str, float]:
    """What the functions make of the arguments, each a number, or numbers by name.

    Raises:
        RequestError: one of them gives something else.
    """
    found: dict[str, float] = {}
    for name, function in metrics.items():
        value = function(*arguments)
        try:
            parts = value.items() if isinstance(value, Mapping) else [(name, value)]
            found |= {str(key): float(number) for key, number in parts}
        except (TypeError, ValueError):
            problem = f"{name} gave {type(value).__name__}, neither a number nor numbers by name"
            raise RequestError(problem, where="task.metrics", mend="Return a float or a dict of floats") from None
    return found


def _imported(module: str, entry: str, where: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise RequestError(
            f"there is no module {module!r}, which {entry!r} names",
            where=where,
            mend=f"Put {module.replace('.', '/')}.py into the folder where you run danlu, or install it",
        ) from None
