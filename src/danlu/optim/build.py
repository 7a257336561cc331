"""Builds an optimiser over a model from its config."""

from torch import nn
from torch.optim import Optimizer

from danlu.optim.config import OptimizerConfig
from danlu.optim.groups import parameter_groups

__all__ = ["build_optimizer", "parameter_groups"]


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimiser that `config` names over the trainable weights of `model`, sharded (DTensor) or not.

    Its groups carry `decay` and `lr_scale`; weight decay starts at 0, since a dial turns it.
    """
    groups = parameter_groups(model)
    for group in groups:
        group["weight_decay"] = 0.0
    return config.options().build(groups, config.lr)
