"""Which layer made the first NaN or infinity: a step is run again with eyes on every module."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from danlu.core.finding import Readings
from danlu.dist.local import local

What = Literal["weight", "input", "output", "gradient", "loss"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trouble:
    """The first thing that was not finite: a weight, the batch itself, what a module gave, or a gradient within it.

    `module` is the module's path in the model; empty when it is the model as a whole.
    """

    module: str
    what: What


def first_not_finite(model: nn.Module, run: Callable[[], object]) -> Trouble | None:
    """Runs a step's forward and backward again and names what was first not finite, in the order of computing.

    Weights come first, then the batch's own numbers, outputs as modules end (so the innermost is named), then
    gradients on their way back: the module whose input's or parameter's gradient is the first that is not finite.
    None: everything was finite this time. With everything finite up to the model's outputs, and `run` returning a loss
    that is not, it is the loss.

    Args:
        model: the model as the techniques see it; its gradients are whatever `run` leaves.
        run: computes the same batch at the same seed, forward and backward. It must not step the optimiser.

    Cost: one step, and a wait for the device at each module. For a step that went wrong, not for every step.
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return Trouble(module=name.rpartition(".")[0], what="weight")
    seen: list[Trouble] = []
    with _watched(model, seen):
        result = run()
    if not seen:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and not _finite(parameter.grad):
                return Trouble(module=name.rpartition(".")[0], what="gradient")
        if isinstance(result, Tensor) and not _finite(result):
            return Trouble(module="", what="loss")
    return seen[0] if seen else None


def as_readings(step: int, trouble: Trouble | None, example_ids: Sequence[int]) -> Readings:
    """What the journal keeps of it: `not_finite/WHAT/MODULE`, and the ids of the examples in that batch."""
    values = {} if trouble is None else {f"not_finite/{trouble.what}/{trouble.module or 'model'}": float(step)}
    return Readings(step=step, values=values, examples={"not_finite": tuple(int(at) for at in example_ids)})


@contextlib.contextmanager
def _watched(model: nn.Module, seen: list[Trouble]) -> Iterator[None]:
    """Within it every module's first inputs, outputs and gradients are looked at; `seen` gets what is not finite."""
    handles = []

    def note(name: str, what: What, tensors: Iterable[Tensor]) -> None:
        fine = _no_nan if what == "input" else _finite  # a mask may hold -inf
        if not seen and not all(map(fine, tensors)):
            seen.append(Trouble(module=name, what=what))

    def on_gradient(name: str) -> Callable[[Tensor], None]:
        return lambda gradient: note(name, "gradient", (gradient,))

    for name, module in model.named_modules():

        def before(_: nn.Module, args: tuple, kwargs: dict, name: str = name) -> None:
            tensors = list(_tensors((args, kwargs)))
            note(name, "input", tensors)
            for tensor in tensors:
                if tensor.requires_grad:
                    handles.append(tensor.register_hook(on_gradient(name)))

        def after(_: nn.Module, __: tuple, result: object, name: str = name) -> None:
            note(name, "output", _tensors(result))

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                handles.append(parameter.register_hook(on_gradient(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (tensor for entry in value.values() for tensor in _tensors(entry))
    elif isinstance(value, (list, tuple)):
        yield from (tensor for entry in value for tensor in _tensors(entry))


def _finite(tensor: Tensor) -> bool:
    held = local(tensor.detach())
    return not held.is_floating_point() or held.element_size() < 2 or bool(torch.isfinite(held).all())


def _no_nan(tensor: Tensor) -> bool:
    held = local(tensor.detach())
    return not held.is_floating_point() or held.element_size() < 2 or not bool(torch.isnan(held).any())
