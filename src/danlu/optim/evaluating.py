"""Within `evaluating` a model carries the weights that its optimiser wants judged."""

import contextlib
from collections.abc import Iterator

import torch
from torch.optim import Optimizer


@contextlib.contextmanager
def evaluating(optimizer: Optimizer) -> Iterator[None]:
    """For schedule-free: the averaged weights x instead of y, where gradients are taken; nothing for the others.

    The library's own way back from x to y rounds, so that a run would depend on how often it was looked at; here y is
    kept aside (one copy of the trainable weights) and put back bit by bit.
    """
    to_average = getattr(optimizer, "eval", None)
    to_training = getattr(optimizer, "train", None)
    if not (callable(to_average) and callable(to_training)):
        yield
        return
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = [parameter.detach().clone() for parameter in weights]
    to_average()
    try:
        yield
    finally:
        to_training()
        with torch.no_grad():
            for parameter, copy in zip(weights, kept, strict=True):
                parameter.copy_(copy)
