"""Evaluation: the task's metrics over every example once, on one process or many."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import nn

from danlu.core.batch import Batch
from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials
from danlu.core.technique import StepContext
from danlu.dist.local import reshard
from danlu.dist.world import World
from danlu.dist.wrap import full_weights
from danlu.tasks.base import Evaluator, Task
from danlu.train.plan import Precision
from danlu.train.stepper import LossModule, autocast


class Measured(NamedTuple):
    """What an evaluation found: numbers by name, and what is not one number, such as a confusion matrix."""

    metrics: dict[str, float]
    tables: dict[str, object]


def evaluate(
    module: nn.Module, task: Task, batches: Iterator[Batch], *, world: World, precision: Precision
) -> Measured:
    """The metrics of `module` (a LossModule, wrapped or not) over this process's share of the batches."""
    whole = gathered(module, task, batches, world=world, precision=precision)
    return Measured(whole.result(), whole.tables())


@torch.no_grad()
def gathered(
    module: nn.Module, task: Task, batches: Iterator[Batch], *, world: World, precision: Precision
) -> Evaluator:
    """The task's evaluator after every example, the same on each process.

    Processes go in rounds, since a sharded model needs all of them for each forward; one that has run out of batches
    computes on a muted row. The module is left in the mode that it was in.
    """
    evaluator = task.evaluator()
    with full_weights(module) if evaluator.asks_model else contextlib.nullcontext(module) as whole_module:
        _take_in(evaluator, whole_module, batches, world, precision)
    whole = task.evaluator()
    for state in world.gather_objects(evaluator.state()):
        whole.absorb(state)
    return whole


def _take_in(
    evaluator: Evaluator, module: nn.Module, batches: Iterator[Batch], world: World, precision: Precision
) -> None:
    muted = None
    was_training = module.training
    module.eval()
    ctx = _quiet_context(module, world)
    try:
        while True:
            batch = next(batches, None)
            if not world.any_across(batch is not None):
                break
            if batch is not None:
                muted = batch.muted()
            if batch is None and muted is None:
                raise RuntimeError("a process was given no evaluation batch at all")
            rows: Batch = (batch if batch is not None else muted).to(world.device)  # type: ignore[union-attr]
            with autocast(world.device, precision):
                loss_module = cast(LossModule, module)
                loss_module(loss_module.task.rollout(loss_module.net, rows, ctx), ctx, evaluator)
    finally:
        module.train(was_training)
        reshard(module)


def _quiet_context(module: nn.Module, world: World) -> StepContext:
    clock = Clock(budget=Budget(steps=1))
    return StepContext(clock=clock, dials=Dials(()), model=module, seed=0, device=world.device)
