"""Average: a second set of weights beside those that are trained, as ema and swa keep it."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from danlu.core.technique import TechniqueState
from danlu.dist.local import local


class AverageState(TechniqueState):
    """The averaged weights by parameter name (float32 or wider), and how many times they took in the model's."""

    def __init__(self, model: nn.Module) -> None:
        self.num_updates = 0
        self.weights = {name: _wide(parameter) for name, parameter in trained(model).items()}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that an optimiser changes, by name; the frozen base of an adapter is not among them."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _wide(parameter: nn.Parameter) -> Tensor:
    copy = parameter.detach().clone()
    return copy if copy.dtype.itemsize >= 4 else copy.float()


@torch.no_grad()
def pull(state: AverageState, model: nn.Module, share: float) -> None:
    """Moves the average towards the model: a ← a + share (w − a), entry by entry; share = 1 copies exactly."""
    parameters = trained(model)
    if share == 1.0:
        for name, average in state.weights.items():
            local(average).copy_(local(parameters[name]))
        return
    averages, weights = [], []
    for name, average in state.weights.items():
        averages.append(local(average))
        weights.append(local(parameters[name].detach()).to(average.dtype))
    torch._foreach_lerp_(averages, weights, share)


@contextlib.contextmanager
def carrying(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Within it the model carries the given weights; afterwards its own again, bit for bit."""
    parameters = [(parameter, weights[name]) for name, parameter in trained(model).items() if name in weights]
    kept = [local(parameter.detach()).clone() for parameter, _ in parameters]
    _write([parameter for parameter, _ in parameters], [local(weight) for _, weight in parameters])
    try:
        yield model
    finally:
        _write([parameter for parameter, _ in parameters], kept)


@torch.no_grad()
def _write(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        local(parameter).copy_(value)
