"""Model families that transformers lacks: each file defines one and registers it with the Auto classes."""

import importlib

from danlu.core import discover


def register_families() -> None:
    """Makes every family here known to transformers, so that a recipe can name it and a saved model loads."""
    for dotted in discover.paths(__name__).values():
        importlib.import_module(dotted)
