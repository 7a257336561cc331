"""Batch: some examples, ready for the model."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

Field = Tensor | tuple[Tensor, ...]

IGNORED = -100
"""the label of what carries no loss, as torch and transformers have it"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of examples. Every field has B entries: a tensor with B first, or a tuple of B ragged tensors.

    `inputs` is what the model's forward takes by name; `labels` is what the task's loss compares with. `targets_B`
    counts the valid targets of each row: the loss of a step is the sum over targets divided by their global count,
    so that one micro-batch, N micro-batches and N processes give the same gradient. `tokens_B` counts what is not
    padding. `example_ids_B` names the rows of the data set. `weights_B`, when given, multiplies each row's loss.
    """

    inputs: Mapping[str, Field]
    labels: Mapping[str, Field]
    example_ids_B: Tensor
    targets_B: Tensor
    tokens_B: Tensor
    weights_B: Tensor | None = None

    @property
    def num_rows(self) -> int:
        return int(self.example_ids_B.shape[0])

    @property
    def num_examples(self) -> int:
        """Rows that count: all but muted ones."""
        return self.num_rows if self.weights_B is None else int((self.weights_B != 0).sum())

    @property
    def num_targets(self) -> int:
        return int(self.targets_B.sum())

    @property
    def num_tokens(self) -> int:
        return int(self.tokens_B.sum())

    def rows(self, start: int, stop: int) -> Self:
        """The rows from `start` up to `stop`, as views."""
        return self._map(lambda field: field[start:stop])

    def select(self, indices: Tensor) -> Self:
        """These rows, in this order."""
        places = indices.tolist()
        pick = lambda field: tuple(field[at] for at in places)  # noqa: E731
        return self._map(lambda field: field[indices] if isinstance(field, Tensor) else pick(field))

    def split(self, num_rows: int) -> list[Self]:
        """Micro-batches of at most `num_rows` rows, in order."""
        return [self.rows(at, at + num_rows) for at in range(0, self.num_rows, num_rows)]

    def muted(self) -> Self:
        """The first row alone, counting for nothing: what a process without rows of its own computes on.

        Its whole-number labels become `IGNORED` and its weight zero, so that loss and gradient are zero.
        """

        def mute(field: Field) -> Field:
            if isinstance(field, tuple) or field.is_floating_point() or field.dtype == torch.bool:
                return field
            return torch.full_like(field, IGNORED)

        first = self.rows(0, 1)
        zero_B = torch.zeros_like(first.targets_B)
        return first.replace(
            labels={name: mute(field) for name, field in first.labels.items()},
            targets_B=zero_B,
            tokens_B=zero_B,
            weights_B=torch.zeros(1, device=zero_B.device),
        )

    def to(self, device: torch.device | str) -> Self:
        """The same batch with every tensor on `device`."""
        move = lambda tensor: tensor.to(device, non_blocking=True)  # noqa: E731
        return self._map(lambda field: move(field) if isinstance(field, Tensor) else tuple(map(move, field)))

    def replace(self, **fields: object) -> Self:
        """The same batch with some of its attributes changed."""
        return dataclasses.replace(self, **fields)  # type: ignore[arg-type]

    def _map(self, change) -> Self:  # type: ignore[no-untyped-def]
        return dataclasses.replace(
            self,
            inputs={name: change(field) for name, field in self.inputs.items()},
            labels={name: change(field) for name, field in self.labels.items()},
            example_ids_B=change(self.example_ids_B),
            targets_B=change(self.targets_B),
            tokens_B=change(self.tokens_B),
            weights_B=None if self.weights_B is None else change(self.weights_B),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowLosses:
    """The loss of each row of a step: summed over its valid targets, without weights, smoothing or focus, in fp32."""

    example_ids_B: Tensor
    losses_B: Tensor
    targets_B: Tensor
