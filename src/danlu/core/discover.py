"""Finds techniques, tasks, probes and findings by their path, so that adding one is adding one file.

`techniques/regularise/label_smoothing.py` is known as `label_smoothing`; a file whose name starts with an underscore,
or is named `base`, is no entry. Third parties add entry points in the group named after the package
(`danlu.techniques`).
"""

import functools
import importlib
import importlib.metadata
import inspect
from pathlib import Path
from typing import TypeVar

from danlu.core.errors import RequestError, nearest


@functools.cache
def paths(package: str) -> dict[str, str]:
    """Name → dotted module path of everything below `package`; nothing found is imported."""
    module = importlib.import_module(package)
    found: dict[str, str] = {}
    for root in map(Path, module.__path__):
        for file in sorted(root.rglob("*.py")):
            if file.stem.startswith("_") or file.stem == "base":
                continue
            dotted = ".".join((package, *file.relative_to(root).with_suffix("").parts))
            if file.stem in found:
                raise RequestError(f"two files are named {file.stem!r} below {package}", mend="Rename one")
            found[file.stem] = dotted
    for entry in importlib.metadata.entry_points(group=package):
        found[entry.name] = entry.value.partition(":")[0]
    return found


T = TypeVar("T")


def find(package: str, name: str, parent: type[T], *, where: str | None = None) -> type[T]:
    """The one subclass of `parent` that the file `name` below `package` defines (`-` and `_` are the same).

    Raises:
        RequestError: no such name; the message holds the nearest right one.
    """
    known = paths(package)
    dotted = known.get(name.replace("-", "_"))
    if dotted is None:
        word = package.rpartition(".")[2].rstrip("s")
        raise RequestError(f"there is no {word} {name!r}", where=where, mend=nearest(name, known))
    module = importlib.import_module(dotted)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, parent) and value is not parent and value.__module__ == dotted
    ]
    if len(found) != 1:
        raise TypeError(f"{dotted} must define exactly one {parent.__name__}, it defines {len(found)}")
    return found[0]
