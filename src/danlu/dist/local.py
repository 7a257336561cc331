"""Local: the part of a sharded tensor that lies on this process, for work that goes entry by entry.

DTensor and FSDP take a second to import, and nobody can hold a sharded tensor or module before they were: so they are
looked up among the imported modules, never imported here.
"""

import sys
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


def is_sharded(tensor: object) -> "TypeIs[DTensor]":
    """True when this process holds only its part of the tensor."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def gathers(module: Any) -> "TypeIs[FSDPModule]":
    """True when FSDP gathers this module's weights before it runs."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    return kind is not None and isinstance(module, kind)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def local_part(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of `whole`, cut as `like` is cut. Every process must hold the same `whole`."""
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    cut = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return cut.to_local()


def reshard(module: nn.Module) -> None:
    """Gives back weights that a forward without a backward left gathered, so that changes to the shards are seen."""
    for part in module.modules():
        if gathers(part):
            part.reshard()
