"""Libraries that the core installation leaves out: imported late, and named with the command that installs them."""

import importlib
from types import ModuleType

from danlu.core.errors import RequestError


def need(module: str, *, extra: str, what: str | None = None) -> ModuleType:
    """The module, imported now; `extra` is the optional part of danlu that brings it, `what` is what wants it.

    Raises:
        RequestError: it is not installed; the message holds the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        problem = f"{what or 'this'} needs the library {module.partition('.')[0]}, which is not installed"
        raise RequestError(problem, mend=f"Run: pip install 'danlu[{extra}]'") from None
