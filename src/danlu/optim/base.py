"""OptimizerKind: the parent of all optimisers; one file below `kinds/` each, found by its path."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from danlu.core.config import Config

Group = dict[str, Any]
"""A parameter group of torch, with `decay` and `lr_scale` (what the dials are multiplied by), `names` and `role`"""


class OptimizerKind(Config):
    """An optimiser's own options. Learning rate and weight decay are dials, set on every group before each step.

    `wants_schedule` is False for one that replaces the decay of the learning rate by averaging. `state_per_weight`
    tells for memory estimates how many fp32 numbers it keeps for each weight. `takes_shards` is False for one that
    needs each weight whole.
    """

    wants_schedule: ClassVar[bool] = True
    state_per_weight: ClassVar[float] = 2.0
    takes_shards: ClassVar[bool] = True

    @abc.abstractmethod
    def build(self, groups: Sequence[Group], lr: float) -> Optimizer:
        """The torch optimiser over these groups. Its `state_dict` must bring it back bit by bit."""


def loss_of(closure: Any) -> Any:
    """What a closure gives that torch lets `step` be called with; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
