"""The last good state of a run, kept in memory where the model is small, so that going back costs next to nothing."""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from danlu.dist.state import load_state, state_of

if TYPE_CHECKING:
    from danlu.train.engine import Engine

MOST_BYTES = 64 << 20
"""the largest state that is kept in memory; it is part of each checkpoint too, so that a resumed run has it"""
_LEVEL = 3
_ROOM = 0.1
"""how much above its level the loss after a snapshot may be, in parts of it"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that the steps after a moment depend on; tensors are copies on the device."""

    step: int
    module: Mapping[str, Any]
    run: Mapping[str, Any]
    level: float = math.inf

    @classmethod
    def take(cls, engine: "Engine", level: float = math.inf) -> Self:
        """A copy of the engine as it is."""
        module = state_of(engine.module, engine.optimizer, frozen=False)
        return cls(step=engine.clock.step, module=copied(module), run=copied(engine.state(good=False)), level=level)

    def put_back(self, engine: "Engine") -> None:
        """Weights, optimiser and all that `Engine.state` holds, as they were."""
        load_state(engine.module, engine.optimizer, self.weights())
        engine.load(copied(self.run, engine.world.device))

    def weights(self) -> Any:
        """Weights and optimiser as a copy, for an optimiser goes on with the very tensors that it is given."""
        return copied(self.module)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "module": self.module, "run": self.run, "level": self.level}


class Good:
    """Keeps the newest state at which, and after which, the training loss stood at its best level."""

    def __init__(self, engine: "Engine") -> None:
        tensors = _tensors(state_of(engine.module, engine.optimizer, frozen=False))
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.small = 3 * num_bytes <= MOST_BYTES  # the optimiser's state is not made yet: two numbers a weight at most
        self.snapshot: Snapshot | None = None
        self._waiting: Snapshot | None = None
        self._losses: list[float] = []

    def begin(self, engine: "Engine") -> None:
        """Takes the state that the run starts with, where there is none yet."""
        if self.small and self.snapshot is None:
            self.snapshot = Snapshot.take(engine)

    def hear(self, engine: "Engine", loss: float) -> None:
        """Takes a snapshot when the loss is at its best so far; it is good once the next loss is no higher either."""
        if not self.small:
            return
        self._losses = [*self._losses, loss][-_LEVEL:]
        level, waiting = statistics.median(self._losses), self._waiting
        if waiting is not None and loss <= waiting.level + _ROOM * abs(waiting.level):
            self.snapshot = waiting
        self._waiting = None
        best = self.snapshot.level if self.snapshot is not None else math.inf
        if math.isfinite(loss) and max(level, loss) <= best:
            self._waiting = Snapshot.take(engine, max(level, loss))

    def forget(self) -> None:
        """The run has gone back: the losses since do not count."""
        self._losses, self._waiting = [], None

    def state_dict(self) -> dict[str, Any]:
        held = {"snapshot": self.snapshot, "waiting": self._waiting}
        return {"losses": self._losses, **{name: state and state.state_dict() for name, state in held.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._losses = [float(loss) for loss in state["losses"]]
        self.snapshot, self._waiting = (
            Snapshot(**state[name]) if state[name] else None for name in ("snapshot", "waiting")
        )


def copied(tree: Any, device: torch.device | None = None) -> Any:
    """The same tree with every tensor copied, to `device` where one is given."""
    if isinstance(tree, Tensor):
        return tree.detach().clone() if device is None else tree.detach().to(device, copy=True)
    if isinstance(tree, Mapping):
        return {key: copied(value, device) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied(value, device) for value in tree)
    return tree


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, (list, tuple)) else ()
    return [tensor for value in values for tensor in _tensors(value)]
