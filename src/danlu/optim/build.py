"""Builds an optimiser over a model from its config."""

from torch import nn
from torch.optim import Optimizer

from danlu.core.errors import RequestError
from danlu.dist.local import is_sharded
from danlu.optim.config import OptimizerConfig
from danlu.optim.groups import parameter_groups
from danlu.optim.offload import Offloaded

__all__ = ["build_optimizer", "parameter_groups"]


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimiser that `config` names over the trainable weights of `model`, sharded (DTensor) or not.

    Its groups carry `decay` and `lr_scale`; weight decay starts at 0, since a dial turns it.

    Raises:
        RequestError: the weights are sharded and this optimiser needs them whole.
    """
    options = config.options()
    if (config.offload or not options.takes_shards) and any(map(is_sharded, model.parameters())):
        raise RequestError(
            f"{config.kind} as it is set here needs each weight whole and cannot be sharded",
            where="train.optimizer",
            mend="Use parallel.strategy=ddp, or another optimiser such as adamw with fp32 or bf16 states",
        )
    groups = parameter_groups(model)
    for group in groups:
        group["weight_decay"] = 0.0
    built = options.build(groups, config.rate)
    elsewhere = any(weight.device.type != "cpu" for group in groups for weight in group["params"])
    return Offloaded(built) if config.offload and elsewhere else built
