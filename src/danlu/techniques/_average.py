"""Average: a second set of weights beside those that are trained, as ema and swa keep it."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from danlu.core.technique import TechniqueState
from danlu.dist.local import is_sharded, local
from danlu.dist.state import laid_out


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


def _settle(state: AverageState, parameters: Mapping[str, nn.Parameter]) -> None:
    """Puts the average where the weights are: on their device, and sharded as they are since the state was made."""
    for name, average in state.weights.items():
        like = parameters[name].detach()
        if average.device != like.device:
            average = average.to(like.device)
        if is_sharded(like) and not is_sharded(average):
            average = laid_out(average, like)
        state.weights[name] = average


@torch.no_grad()
def pull(state: AverageState, model: nn.Module, share: float, taken: Tensor | None = None) -> None:
    """Moves the average towards the model: a ← a + share (w − a), entry by entry; share = 1 copies exactly.

    Where `taken` is given and false, on the device, the average stays as it is.
    """
    parameters = trained(model)
    _settle(state, parameters)
    if taken is not None:
        for name, average in state.weights.items():
            here, weight = local(average), local(parameters[name].detach())
            here.copy_(torch.where(taken, here.lerp(weight.to(here.dtype), share), here))
        return
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
def carrying(model: nn.Module, state: AverageState) -> Iterator[nn.Module]:
    """Within it the model carries the average; afterwards its own weights again, bit for bit."""
    parameters = trained(model)
    _settle(state, parameters)
    averaged = [parameters[name] for name in state.weights]
    kept = [local(parameter.detach()).clone() for parameter in averaged]
    _write(averaged, [local(average) for average in state.weights.values()])
    try:
        yield model
    finally:
        _write(averaged, kept)


@torch.no_grad()
def _write(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        local(parameter).copy_(value)
