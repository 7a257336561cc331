"""World: the processes of one run, and the few things that they say to one another.

Every method is a no-op, or the identity, with one process, so that no caller asks how many there are. All processes
must call the same methods in the same order.
"""

import ctypes
import dataclasses
import datetime
import os
import signal
import sys
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from danlu.core.errors import RequestError, RunError
from danlu.dist.config import ParallelConfig
from danlu.dist.launch import LAUNCHED


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Who this process is among `size` others; `local_size` of them share this machine.

    `backend` is "none" with one process. `group` is the line over which this world's processes speak (None: torch's
    default one).
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    backend: str = "none"
    group: Any = None

    @property
    def is_first(self) -> bool:
        """True on the one process that writes and speaks for all."""
        return self.rank == 0

    def sum_across(self, tensor: Tensor) -> Tensor:
        """The sum over processes, as a new tensor on the same device; its argument is left as it is."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM, group=self.group)
        return total

    def max_across(self, number: float) -> float:
        """The largest of all processes' numbers (integers are exact up to 2^53)."""
        if self.size == 1:
            return number
        largest = torch.tensor(float(number), dtype=torch.float64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.group)
        return float(largest)

    def min_across(self, number: float) -> float:
        """The smallest of all processes' numbers."""
        return -self.max_across(-number)

    def any_across(self, flag: bool) -> bool:
        """True when it is true on at least one process."""
        return bool(self.max_across(float(flag)))

    def broadcast_number(self, number: float) -> float:
        """The first process's number: what a wall clock shows must be the same for all, or they part ways."""
        if self.size == 1:
            return number
        shared = torch.tensor(float(number), dtype=torch.float64)
        dist.broadcast(shared, src=0, group=self.group)
        return float(shared)

    def broadcast_object(self, value: Any) -> Any:
        """The first process's object, pickled on the way; what the others pass is not looked at."""
        if self.size == 1:
            return value
        box = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """Every process's object, in the order of ranks, on every process."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, slice]:
        """The rows of all processes, in the order of ranks, on every process; and which of them are this one's."""
        parts = [rows] if self.size == 1 else [part.to(rows.device) for part in self.gather_objects(rows.cpu())]
        start = sum(len(part) for part in parts[: self.rank])
        return torch.cat(parts), slice(start, start + len(rows))

    def barrier(self) -> None:
        """Returns when every process has come here."""
        self.max_across(0.0)

    def apart(self, timeout_minutes: float = 30.0) -> Self:
        """The same processes on a line of their own (gloo), for use in another thread than this world's."""
        if self.size == 1:
            return self
        group = dist.new_group(backend="gloo", timeout=datetime.timedelta(minutes=timeout_minutes))
        return dataclasses.replace(self, group=group)


def start_world(config: ParallelConfig | None = None, device: torch.device | str | None = None) -> World:
    """The world that torchrun's environment describes; without it, one process and no group.

    Args:
        config: backend and timeout; the defaults when absent.
        device: where the tensors are; by default the CUDA device of this local rank when there is one, else the CPU.

    Raises:
        RequestError: nccl without a CUDA device for each process, or an environment that is incomplete.
        RunError: the other processes could not be reached.
    """
    config = config or ParallelConfig()
    rank, size = _environment("RANK", 0), _environment("WORLD_SIZE", 1)
    local_rank, local_size = _environment("LOCAL_RANK", rank), _environment("LOCAL_WORLD_SIZE", size)
    if size == 1:
        return World(device=torch.device(device) if device is not None else _default_device(0, 1, "auto"))
    if LAUNCHED in os.environ:
        end_with_parent()
    chosen = torch.device(device) if device is not None else _default_device(local_rank, local_size, config.backend)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local_rank if chosen.index is None else chosen.index)
        torch.cuda.set_device(chosen)
    # CUDA worlds carry CPU tensors too (counts, objects), so they speak gloo besides nccl.
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" and config.backend != "gloo" else "gloo"
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(minutes=config.timeout_minutes))
    except ValueError as error:
        raise RequestError(f"RANK and WORLD_SIZE are set, but {error}", mend="Start with --processes N") from error
    except (RuntimeError, TimeoutError) as error:
        raise RunError(f"process {rank} of {size} cannot reach the others: {error}", where="parallel") from error
    return World(
        rank=rank,
        local_rank=local_rank,
        size=size,
        local_size=local_size,
        device=chosen,
        backend="nccl" if "nccl" in backend else "gloo",
    )


def stop_world() -> None:
    """Leaves the other processes; nothing happens where there are none."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Asks the kernel (Linux) to send this process a signal when its parent is gone, so that none is left behind."""
    if not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, number, 0, 0, 0)


def _default_device(local_rank: int, local_size: int, backend: str) -> torch.device:
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if backend != "gloo" and num_devices >= local_size:
        return torch.device("cuda", local_rank)
    if backend == "nccl":
        raise RequestError(
            f"nccl needs a CUDA device for each process: {local_size} processes, {num_devices} devices",
            where="parallel.backend",
            mend="Use gloo, or fewer processes",
        )
    return torch.device("cpu")


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise RequestError(f"the environment variable {name} is {text!r}, not a number", mend="Unset it") from None
