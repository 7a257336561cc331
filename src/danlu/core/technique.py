"""Technique: a frozen config with up to eight slots, each a typed place in the step."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from danlu.core.action import Action
from danlu.core.batch import Batch, RowLosses
from danlu.core.clock import Clock
from danlu.core.config import Config
from danlu.core.dials import Dial, Dials
from danlu.core.errors import RequestError
from danlu.core.finding import Evaluation
from danlu.core.outputs import Outputs
from danlu.core.seeds import generator_of

T = TypeVar("T")
Extra = Literal["hidden_states", "attentions"]
SLOTS = ("on_model", "before_step", "on_draw", "on_batch", "loss_terms", "on_grads", "after_step", "on_export")


def _alone(rows_B: Tensor) -> tuple[Tensor, slice]:
    return rows_B, slice(0, len(rows_B))


def _untold(*_: object) -> Any:
    raise RequestError("this is not known here", where="techniques", mend="See in which slot it is")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a slot may read. It is made anew for each step.

    `num_targets` is the count of valid targets over all micro-batches and processes of this step. `evaluation` is the
    newest evaluation, if any. `grad_norm()` gives the global norm of the gradient, computed once per step.
    `taken`, a boolean on the device, is given to `after_step` where only the device knows whether the step was skipped.

    `gather(rows_B)` gives the rows of all processes in their order, and which of them are this process's own.
    `row_losses()`, in `after_step`, gives the losses of the step's rows on all processes, for those who say
    `needs_row_losses`. `losses(batch)`, in `on_batch`, runs the model at rest on a batch and gives `Task.losses`, (B,);
    `losses(batch, call)` runs another, a `Forward`. All processes must call these three alike.
    """

    clock: Clock
    dials: Dials
    model: nn.Module
    seed: int
    device: torch.device
    num_targets: int = 0
    evaluation: Evaluation | None = None
    grad_norm: Callable[[], Tensor] = dataclasses.field(default=lambda: torch.zeros(()))
    gather: Callable[[Tensor], tuple[Tensor, slice]] = _alone
    row_losses: Callable[[], RowLosses] = _untold
    losses: Callable[..., Tensor] = _untold
    taken: Tensor | None = None

    def dial(self, name: str, default: float | None = None) -> float:
        """The number that a dial shows now."""
        return self.dials.value(name, self.clock, default)

    def generator(self, name: str) -> torch.Generator:
        """Random numbers for one named use in this step, the same on every process and after every resume."""
        return generator_of(self.seed, name, self.clock.step, device=self.device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What a technique may know of the run that it starts in.

    `tools` is the tokenizer or processor; `examples` names the training examples: equal names, equal examples.
    `lengths_N` holds the tokens of each training example, and `column(name)` a whole number of each, (N,): its class by
    `label`, the place of its source in the list `data.train` by `source`; a RequestError where the data do not tell.
    """

    tools: Any = None
    examples: str = ""
    lengths_N: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    column: Callable[[str], np.ndarray] = _untold


class TechniqueState:
    """What a technique remembers. Attributes that are tensors, dicts of tensors or plain numbers are checkpointed.

    Those whose name begins with an underscore are not: they are made anew at every start.
    """

    def state_dict(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Technique(Config):
    """The parent of all techniques; a child overrides the slots that it uses and leaves the others.

    A child at settings that mean "off" (p = 0, norm = inf) must be the identity. `state` is `"saved"` when what
    `start` returns must be in a checkpoint, `"held"` when it is rebuilt at every start (a frozen teacher). `after`
    and `conflicts` name other techniques by file name. The conformance suite reads the rest: `off` are options at which
    the technique is the identity, `example` are options at which it does something on a small model (with those in
    `beside`, by name, where it works through others), and `random_in_forward` says that it draws random numbers inside
    the model, where micro-batches cannot draw alike.
    """

    after: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[tuple[str, ...]] = ()
    state: ClassVar[Literal["saved", "held"]] = "saved"
    off: ClassVar[Mapping[str, object]] = {}
    example: ClassVar[Mapping[str, object]] = {}
    beside: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    random_in_forward: ClassVar[bool] = False
    needs_row_losses: ClassVar[bool] = False
    """whether the step must keep each row's loss for `ctx.row_losses()`"""

    @classmethod
    def name(cls) -> str:
        """The name by which a recipe switches it on: its file's."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def slots(cls) -> list[str]:
        """The slots that this technique uses."""
        return [slot for slot in SLOTS if getattr(cls, slot) is not getattr(Technique, slot)]

    def dials(self) -> Sequence[Dial]:
        """The dials that this technique brings into the run."""
        return ()

    def needs(self) -> Sequence[Extra]:
        """What the model's forward is to give besides, in training: it then stands in `Outputs.extra`.

        Attentions are given only by a model set to eager attention, which `on_model` must see to.
        """
        return ()

    def start(self, model: nn.Module) -> TechniqueState | None:
        """Makes the technique's state, after every `on_model`; None when it remembers nothing."""
        return None

    def start_in(self, setting: Setting, model: nn.Module) -> TechniqueState | None:
        """`start`, for a technique that must know more of the run: overridden in its place."""
        return self.start(model)

    def on_model(self, model: nn.Module) -> nn.Module:
        """Surgery, once, before the optimiser and the processes see the model. Parameter names must not change."""
        return model

    def before_step(self, ctx: StepContext, state: TechniqueState | None) -> Sequence[Action]:
        """Sets things up for the step; called again with the same clock it must do nothing new."""
        return ()

    def on_draw(self, ctx: StepContext, state: TechniqueState | None) -> Tensor | None:
        """How often each training example is wanted, (N,) numbers ≥ 0 of any sum, on the CPU; None: all alike.

        It is called before every draw and must give the same tensor, not an equal one, until the weights change. The
        weights of several techniques multiply. They must be the same on every process.
        """
        return None

    def on_batch(self, batch: Batch, ctx: StepContext, state: TechniqueState | None) -> Batch:
        """Changes this process's whole batch, before it is cut into micro-batches."""
        return batch

    def loss_terms(
        self, outputs: Outputs, batch: Batch, ctx: StepContext, state: TechniqueState | None
    ) -> Mapping[str, Tensor]:
        """Terms to add to the loss, by name, as sums over the batch's valid targets.

        The engine divides by the global number of targets; a penalty on the whole model returns
        `penalty * batch.num_targets`.
        """
        return {}

    def gradients(
        self,
        compute: Callable[[], T],
        parameters: Sequence[nn.Parameter],
        ctx: StepContext,
        state: TechniqueState | None,
    ) -> T:
        """In place of the stepper's own way to the gradients, for one technique of a run (SAM): no slot.

        `compute()` leaves the gradients of the whole step, over all micro-batches and processes, on the parameters in
        place of those before, and gives what it found, of which one must be returned.
        """
        return compute()

    @classmethod
    def has_own_gradients(cls) -> bool:
        return cls.gradients is not Technique.gradients

    def on_grads(self, parameters: Sequence[nn.Parameter], ctx: StepContext, state: TechniqueState | None) -> None:
        """Changes the gradients in place, after they are summed over micro-batches and processes."""

    def after_step(self, ctx: StepContext, state: TechniqueState | None) -> None:
        """Follows the optimiser; `ctx.clock` already counts this step. Not called after a step known to be skipped."""

    def readings(self, state: TechniqueState | None) -> Mapping[str, float]:
        """Numbers of the state that the next line of the journal is to hold."""
        return {}

    @contextlib.contextmanager
    def on_export(self, model: nn.Module, state: TechniqueState | None) -> Iterator[nn.Module]:
        """Within it the model carries the weights to evaluate and to export; afterwards those to train."""
        yield model


def in_order(techniques: Sequence[Technique]) -> list[Technique]:
    """Techniques sorted so that each follows those in its `after`; equal ones keep the order of their names.

    Raises:
        RequestError: two of them conflict, or the order contradicts itself.
    """
    waiting = {technique.name(): technique for technique in sorted(techniques, key=lambda t: t.name())}
    for name, technique in waiting.items():
        for other in technique.conflicts:
            if other in waiting:
                raise RequestError(f"{name} and {other} cannot be used together", where="techniques", mend="Remove one")
    own = [name for name, technique in waiting.items() if technique.has_own_gradients()]
    if len(own) > 1:
        problem = f"{' and '.join(own)} each have a way of their own to the gradients"
        raise RequestError(problem, where="techniques", mend="Keep one of them")
    ordered: list[Technique] = []
    while waiting:
        ready = [name for name, item in waiting.items() if not any(before in waiting for before in item.after)]
        if not ready:
            raise RequestError(f"the order of {', '.join(waiting)} contradicts itself", where="techniques")
        ordered.append(waiting.pop(ready[0]))
    return ordered
