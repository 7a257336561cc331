"""Local: the part of a sharded tensor that lies on this process, for work that goes entry by entry."""

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(tensor: Tensor) -> bool:
    """True when this process holds only its part of the tensor."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_part(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of `whole`, cut as `like` is cut. Every process must hold the same `whole`."""
    if not isinstance(like, DTensor):
        return whole
    cut = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return cut.to_local()


def reshard(module: nn.Module) -> None:
    """Gives back weights that a forward without a backward left gathered, so that changes to the shards are seen."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
