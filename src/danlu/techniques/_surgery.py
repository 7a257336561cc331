"""Surgery: gives single modules of a model a changed forward, and finds a model's repeated blocks.

A module is changed by giving it a subclass of its own class. Parameter names, weights, hooks, adapters and saved files
stay as they were, and it works on whatever module a model family uses.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

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
