"""ParallelConfig: how the processes of one run share its work."""

from typing import Literal

from danlu.core.config import Config


class ParallelConfig(Config):
    """Used when there is more than one process; with one it changes nothing."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each process holds the whole model. fsdp: each holds a share of weights, gradients and optimiser states"""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """what carries the tensors; auto is nccl where each process has a CUDA device of its own, else gloo"""
    find_unused: bool = False
    """ddp only: allow weights that do not take part in every step, at the cost of a walk over the graph each time"""
    reshard: bool = True
    """fsdp only: give a layer's gathered weights back after its forward; false is faster and takes more memory"""
    timeout_minutes: float = 30.0
    """how long a process waits for the others before it gives up"""
