"""Plan: everything that the loop needs, made by the rooms below; it never sees a recipe."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from danlu.control.policy import Mode
from danlu.core.clock import Budget, Every
from danlu.core.dials import Dial
from danlu.core.journal import Journal
from danlu.core.technique import Technique
from danlu.data.sampler import BatchSize
from danlu.dist.config import ParallelConfig
from danlu.dist.world import World
from danlu.monitor.base import Probe
from danlu.tasks.base import Prepared, Task

Precision = Literal["fp32", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One run. `model` is on the CPU; `make_optimizer` is called on it after surgery and sharding.

    `pretrained` says that its weights are worth something already.
    """

    name: str
    seed: int
    task: Task
    data: Prepared
    model: nn.Module
    make_optimizer: Callable[[nn.Module], Optimizer]
    dials: Sequence[Dial]
    techniques: Sequence[Technique]
    probes: Sequence[Probe]
    control: Mode
    budget: Budget
    batch: BatchSize
    evaluate_every: Every
    checkpoint_every: Every
    log_every: Every
    precision: Precision
    world: World
    parallel: ParallelConfig
    journal: Journal
    folder: Path
    gemm_rate: float
    micro_batch: int | None = None
    samples: bool = True
    pretrained: bool = False
