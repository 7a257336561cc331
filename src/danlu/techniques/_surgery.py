"""Surgery: gives single modules of a model a changed forward, finds a model's repeated blocks, and parts by name.

A module is changed by giving it a subclass of its own class. Parameter names, weights, hooks, adapters and saved files
stay as they were, and it works on whatever module a model family uses.
"""

import fnmatch
import functools
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from danlu.core.errors import RequestError, nearest
from danlu.core.technique import TechniqueState


def extend(module: nn.Module, mixin: type[nn.Module]) -> None:
    """Puts `mixin` before the class of `module`, so that its forward may call `super().forward`; once is enough."""
    if not isinstance(module, mixin):
        module.__class__ = _joined(mixin, type(module))  # type: ignore[arg-type]


class Extended(TechniqueState):
    """The modules that a technique put a mixin on, found once; held, not saved."""

    def __init__(self, model: nn.Module, mixin: type[nn.Module]) -> None:
        self.modules = [module for module in model.modules() if isinstance(module, mixin)]


@functools.cache
def _joined(mixin: type[nn.Module], cls: type[nn.Module]) -> type[nn.Module]:
    return type(f"{mixin.__name__}{cls.__name__}", (mixin, cls), {"__module__": cls.__module__})


def block_lists(model: nn.Module) -> list[nn.ModuleList]:
    """The lists of a model's repeated blocks, one for a decoder or an encoder, two for a pair of them.

    These are the outermost lists whose entries share one class and are made of parts with matrices. Experts within a
    block and lists of bare projections are none.
    """
    return list(_block_lists(model))


def _block_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    if isinstance(module, nn.ModuleList) and _are_blocks(module):
        yield module
        return
    for child in module.children():
        yield from _block_lists(child)


def _are_blocks(entries: nn.ModuleList) -> bool:
    same = len({type(entry) for entry in entries}) == 1
    return same and all(any(True for _ in entry.children()) and holds_matrices(entry) for entry in entries)


def depths(model: nn.Module, *, where: str) -> dict[str, tuple[int, int]]:
    """Parameter name → (its depth, the depth of the head): 0 before the blocks, 1 … L in them, L + 1 behind them.

    Embeddings have depth 0 wherever they stand. Of an encoder and a decoder each counts for itself.

    Raises:
        RequestError: the model has no repeated blocks.
    """
    lists = block_lists(model)
    if not lists:
        raise RequestError("this model has no repeated blocks to count", where=where)
    top = max(map(len, lists)) + 1
    inside = {
        id(parameter): (depth, len(blocks) + 1)
        for blocks in lists
        for depth, block in enumerate(blocks, start=1)
        for parameter in block.parameters()
    }
    tables = {id(weight) for part in model.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()}
    found: dict[str, tuple[int, int]] = {}
    behind = False
    for name, parameter in model.named_parameters():
        behind = behind or id(parameter) in inside
        outside = (top if behind and id(parameter) not in tables else 0, top)
        found[name] = inside.get(id(parameter), outside)
    return found


def matching(names: Collection[str], patterns: Collection[str], *, where: str) -> set[str]:
    """The names that a pattern fits (`*` and `?`), or that lie below a name that it fits (`model.layers.0`).

    Raises:
        RequestError: a pattern fits nothing; with the nearest name.
    """
    found: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in names if any(fnmatch.fnmatchcase(name, way) for way in (pattern, f"{pattern}.*"))}
        if not fitting:
            close = nearest(pattern, names)
            mend = close if close.startswith("Did") else f"Names look like {', '.join(sorted(names)[:3])}"
            raise RequestError(f"nothing in the model fits {pattern!r}", where=where, mend=mend)
        found |= fitting
    return found


def holds_matrices(module: nn.Module) -> bool:
    """True when the module, or a part of it, has a weight with two or more dimensions."""
    return any(parameter.ndim >= 2 for parameter in module.parameters())


def input_embedding(model: nn.Module) -> nn.Embedding | None:
    """The table that turns token numbers into vectors; None where there is none (images, features)."""
    getter = getattr(model, "get_input_embeddings", None)
    try:
        found = getter() if getter else None
    except NotImplementedError:
        return None
    return found if isinstance(found, nn.Embedding) else None


def first_of(output: Tensor | tuple[object, ...]) -> Tensor:
    """The hidden state of what a block gave, which may be a tuple that begins with it."""
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, torch.Tensor):
        raise TypeError(f"expected a tensor, or a tuple that begins with one, not {type(output).__name__}")
    return hidden


def with_first(output: Tensor | tuple[object, ...], hidden: Tensor) -> Tensor | tuple[object, ...]:
    """The same output with another hidden state."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
