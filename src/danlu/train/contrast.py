"""Contrast: the exact gradient of a loss that compares rows, over micro-batches and processes (GradCache).

Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup", section 3. Every row is
first computed without a gradient; the loss of all of them gives a gradient at each row's outputs; then each micro-batch
is computed again, and its outputs are pulled along that. It costs one more forward, and memory as for one micro-batch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from danlu.core.batch import Batch, Field
from danlu.core.outputs import Outputs
from danlu.core.technique import StepContext
from danlu.dist.world import World
from danlu.tasks.base import Task


class Taker(Protocol):
    """Takes in outputs where no loss is asked for, as an evaluator does."""

    def update(self, outputs: Outputs, batch: Batch) -> None: ...


class Gathered:
    """Keeps the outputs of one micro-batch after the other."""

    def __init__(self) -> None:
        self.outputs: list[Outputs] = []

    def update(self, outputs: Outputs, batch: Batch) -> None:
        self.outputs.append(outputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pull:
    """The gradient of the step's loss at one micro-batch's outputs, the share that it reports, and its rows' losses."""

    gradients: Mapping[str, Tensor]
    loss: Tensor
    losses_B: Tensor | None

    def term(self, outputs: Outputs) -> Tensor:
        """A number that is the loss, with the gradient of the step's loss by all that made `outputs`."""
        pulled = torch.stack(
            [(cast(Tensor, outputs.extra[name]).float() * pull).sum() for name, pull in self.gradients.items()]
        ).sum()
        outputs.losses_B = self.losses_B
        return pulled - pulled.detach() + self.loss


def pulls(task: Task, micros: Sequence[Batch], found: Sequence[Outputs], ctx: StepContext, world: World) -> list[Pull]:
    """One for each micro-batch of this process, from the outputs of all micro-batches of all processes.

    All processes compute the whole loss; each keeps the gradient at its own rows. The first micro-batch of each
    reports its process's share.
    """
    own = {name: torch.cat([_told(outputs, name) for outputs in found]) for name in task.contrasted}
    device, rows = world.device, sum(micro.num_rows for micro in micros)
    everyone = world.gather_objects(
        ({name: tensor.cpu() for name, tensor in own.items()}, joined([micro.to("cpu") for micro in micros]))
        if world.size > 1
        else (own, joined(micros))
    )
    start = sum(batch.num_rows for _, batch in everyone[: world.rank])
    leaves = {
        name: torch.cat([tensors[name] for tensors, _ in everyone]).to(device).requires_grad_()
        for name in task.contrasted
    }
    outputs = Outputs(extra=leaves)
    with torch.enable_grad():
        loss = task.loss(outputs, joined([batch for _, batch in everyone]).to(device), ctx)
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    sizes, share = [micro.num_rows for micro in micros], loss.detach() / world.size
    mine = [tensor[start : start + rows].split(sizes) for tensor in (*gradients, cast(Tensor, outputs.losses_B))]
    return [
        Pull(
            gradients=dict(zip(leaves, parts, strict=True)),
            loss=share if at == 0 else torch.zeros_like(share),
            losses_B=losses_B,
        )
        for at, (*parts, losses_B) in enumerate(zip(*mine, strict=True))
    ]


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of all, without inputs. Weights are 1 where only others have them."""
    first = batches[0]
    weights = [
        torch.ones(batch.num_rows, device=batch.targets_B.device) if batch.weights_B is None else batch.weights_B
        for batch in batches
    ]
    weighted = any(batch.weights_B is not None for batch in batches)
    return Batch(
        inputs={},
        labels={name: _together([batch.labels[name] for batch in batches]) for name in first.labels},
        example_ids_B=torch.cat([batch.example_ids_B for batch in batches]),
        targets_B=torch.cat([batch.targets_B for batch in batches]),
        tokens_B=torch.cat([batch.tokens_B for batch in batches]),
        weights_B=torch.cat(weights) if weighted else None,
    )


def _told(outputs: Outputs, name: str) -> Tensor:
    return cast(Tensor, outputs.extra[name]).detach().float()


def _together(fields: Sequence[Field]) -> Field:
    tensors = [field for field in fields if isinstance(field, Tensor)]
    return torch.cat(tensors) if tensors else tuple(entry for field in fields for entry in field)
