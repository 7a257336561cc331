"""Probe: reads something of a run, never writes. Probes: all of a run's probes and the numbers they gather."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from danlu.core import discover
from danlu.core.batch import Batch, RowLosses
from danlu.core.clock import Clock
from danlu.core.config import Config
from danlu.core.finding import Readings
from danlu.dist.world import World

EARLY = (1, 2, 5, 10, 20)
"""steps that every probe reads, so that a short run is seen too"""
Value = float | Tensor
Series = Mapping[str, Sequence[float]]


class Memory(Protocol):
    """What a probe gathers over a run; a checkpoint keeps it."""

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What stays the same over a run. Rates and counts are those of all processes together.

    `gemm_rate` is the measured FLOP/s of a large matrix product, `flops_per_token` what a forward and backward pass
    needs; zero means unknown. `frozen_on_purpose` names the parameters that the recipe has frozen.
    `memory` holds, by the probe's name, what a probe gathers over the whole run.
    """

    model: nn.Module
    frozen_on_purpose: frozenset[str] = frozenset()
    memory: dict[str, Memory] = dataclasses.field(default_factory=dict)
    gemm_rate: float = 0.0
    flops_per_token: float = 0.0
    world: World = dataclasses.field(default_factory=World)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeContext:
    """What a probe may read after a step. `clock` already counts it; tensors may still be on their way.

    `terms` are the step's mean loss terms by name ("loss" is the task's), `grad_norm` the norm before clipping. Counts
    are over all processes; `step_seconds` is wall time from the step before to this one, waiting for data included.
    `row_losses()` gives the losses of all processes' rows, as device tensors, to probes that say `needs_row_losses`.
    `batch` are this process's rows and `losses_B` their losses, where the task tells them. A micro-batch
    holds at most `micro_batch_tokens`; 0 where that is not known.
    """

    clock: Clock
    facts: Facts
    optimizer: Optimizer
    terms: Mapping[str, Tensor]
    grad_norm: Tensor
    num_tokens: int
    num_examples: int
    step_seconds: float
    data_wait_seconds: float
    row_losses: Callable[[], RowLosses]
    batch: Batch | None = None
    losses_B: Tensor | None = None
    micro_batch_tokens: int = 0


class Probe(Config):
    """The parent of all probes: one file below `monitor/probes`, known by the file's name.

    `read` is called after each step that is due and must not wait for the device: it returns tensors as they are.
    `summarise` turns what was read since the last line of the journal into the numbers of the next one.
    """

    usual: ClassVar[bool] = True
    """whether a run has this probe unless told otherwise"""
    needs_row_losses: ClassVar[bool] = False
    """whether the step must keep each row's loss for `ctx.row_losses()`"""

    every: int = Field(default=1, ge=1)
    """steps from one reading to the next; at the start they are closer (1, 2, 5, 10, 20)"""

    @classmethod
    def name(cls) -> str:
        """Its file's name."""
        return cls.__module__.rpartition(".")[2]

    def due(self, step: int) -> bool:
        """Whether step number `step` (the first is 1) is read."""
        return step in EARLY or step % self.every == 0

    @contextlib.contextmanager
    def around(self, facts: Facts) -> Iterator[object]:
        """Surrounds a step that is due: keeps what was before it, or hangs hooks on the model and takes them off.

        What it yields is given to `read`.
        """
        yield None

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        """The numbers of this step by name."""
        raise NotImplementedError

    def start(self) -> Memory | None:
        """What it gathers over the run, to be found in `facts.memory`; None: nothing but readings."""
        return None

    def conclude(self, facts: Facts) -> tuple[Mapping[str, float], Mapping[str, tuple[int, ...]]]:
        """Further numbers for a line of the journal, and ids of examples, from what was gathered. All processes ask."""
        return {}, {}

    def summarise(self, series: Series) -> Mapping[str, float]:
        """The numbers for the journal; the means unless a child does otherwise."""
        return {name: mean(values) for name, values in series.items()}


def mean(values: Sequence[float]) -> float:
    """The mean of at least one number; not finite when one of them is not."""
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values)


def total_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Σ above / Σ below: a rate over several steps; 0 where nothing was counted."""
    counted = math.fsum(below)
    return math.fsum(above) / counted if counted > 0 else 0.0


def default_probes() -> list[Probe]:
    """Every usual probe that is found by its path, with its own settings."""
    known = discover.paths("danlu.monitor.probes")
    classes = [discover.find("danlu.monitor.probes", name, Probe) for name in sorted(known)]
    return [cls() for cls in classes if cls.usual]


class Probes:
    """Runs probes around the steps of a run, on every process alike, and gathers what they read.

    Device tensors are kept as they are and turned into numbers together, in one transfer, when a line of the journal
    is due.

    Args:
        probes: what to read.
        model: the model as the techniques see it, not its wrapper.
        gemm_rate: measured FLOP/s of a large matrix product, all processes together.
        flops_per_token: of a forward and backward pass.
        world: the processes of the run.
        frozen_on_purpose: parameters that the recipe has frozen.
    """

    def __init__(
        self,
        probes: Iterable[Probe],
        *,
        model: nn.Module,
        gemm_rate: float = 0.0,
        flops_per_token: float = 0.0,
        world: World | None = None,
        frozen_on_purpose: frozenset[str] = frozenset(),
    ) -> None:
        self.probes = {probe.name(): probe for probe in probes}
        self.facts = Facts(
            model=model,
            gemm_rate=gemm_rate,
            flops_per_token=flops_per_token,
            world=world or World(),
            frozen_on_purpose=frozen_on_purpose,
        )
        started = {name: probe.start() for name, probe in self.probes.items()}
        self.facts.memory.update({name: memory for name, memory in started.items() if memory is not None})
        self._around = contextlib.ExitStack()
        self._kept: dict[str, object] = {}
        self._pending: dict[str, dict[str, list[tuple[int, Value]]]] = {}

    def before_step(self, clock: Clock) -> None:
        """Enters what surrounds the coming step; `clock` does not count it yet."""
        self.close()
        for name, probe in self.probes.items():
            if probe.due(clock.step + 1):
                if type(probe).around is Probe.around:  # nothing to surround: entering it would cost at every step
                    self._kept[name] = None
                    continue
                self._kept[name] = self._around.enter_context(probe.around(self.facts))

    def after_step(
        self,
        clock: Clock,
        *,
        optimizer: Optimizer,
        terms: Mapping[str, Tensor],
        grad_norm: Tensor,
        num_tokens: int,
        num_examples: int,
        step_seconds: float,
        data_wait_seconds: float,
        row_losses: Callable[[], RowLosses],
        batch: Batch | None = None,
        losses_B: Tensor | None = None,
        micro_batch_tokens: int = 0,
        log: bool,
        left_out: Container[int] = (),
    ) -> Readings | None:
        """Reads the finished step (see `ProbeContext`); with `log` the numbers since the last time, else None.

        What was read at the steps `left_out` does not count, where anything else was read.
        """
        ctx = ProbeContext(
            clock=clock,
            facts=self.facts,
            optimizer=optimizer,
            terms=terms,
            grad_norm=grad_norm,
            num_tokens=num_tokens,
            num_examples=num_examples,
            step_seconds=step_seconds,
            data_wait_seconds=data_wait_seconds,
            row_losses=row_losses,
            batch=batch,
            losses_B=losses_B,
            micro_batch_tokens=micro_batch_tokens,
        )
        for name, kept in self._kept.items():
            for key, value in self.probes[name].read(ctx, kept).items():
                held = value.detach() if isinstance(value, Tensor) else float(value)
                self._pending.setdefault(name, {}).setdefault(key, []).append((clock.step, held))
        self.close()
        if not log:
            return None
        for kinds in self._pending.values():
            for key, rows in kinds.items():
                kinds[key] = [row for row in rows if row[0] not in left_out] or rows
        return self._flush(clock.step)

    def close(self) -> None:
        """Takes off whatever is still hung on the model, after a step that failed too."""
        self._kept = {}
        self._around.close()

    def state_dict(self) -> dict[str, object]:
        """The numbers that no line of the journal holds yet."""
        self._pending = _as_numbers(self._pending)
        pending = {name: {key: list(rows) for key, rows in kinds.items()} for name, kinds in self._pending.items()}
        return {"pending": pending, "memory": {name: held.state_dict() for name, held in self.facts.memory.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, held in self.facts.memory.items():
            if name in state["memory"]:
                held.load_state_dict(state["memory"][name])
        self._pending = {
            name: {key: [(int(step), float(value)) for step, value in rows] for key, rows in kinds.items()}
            for name, kinds in state["pending"].items()
            if name in self.probes
        }

    def _flush(self, step: int) -> Readings:
        values: dict[str, float] = {}
        for name, kinds in _as_numbers(self._pending).items():
            series = {key: [float(value) for _, value in rows] for key, rows in kinds.items()}
            values.update(self.probes[name].summarise(series))
            for key, rows in kinds.items():
                bad = next((at for at, value in rows if not math.isfinite(float(value))), None)
                if bad is not None:
                    values[f"{key}/not_finite_step"] = float(bad)
        self._pending = {}
        examples: dict[str, tuple[int, ...]] = {}
        for probe in self.probes.values():
            numbers, ids = probe.conclude(self.facts)
            values.update(numbers)
            examples.update(ids)
        return Readings(step=step, values=values, examples=examples)


def _as_numbers(
    pending: Mapping[str, Mapping[str, Sequence[tuple[int, Value]]]],
) -> dict[str, dict[str, list[tuple[int, Value]]]]:
    """The same with every tensor turned into a number; one wait for each device."""
    tensors = [value for kinds in pending.values() for rows in kinds.values() for _, value in rows]
    waiting: dict[torch.device, list[Tensor]] = {}
    for value in tensors:
        if isinstance(value, Tensor):
            waiting.setdefault(value.device, []).append(value)
    numbers: dict[int, float] = {}
    for held in waiting.values():
        flat = torch.stack([value.reshape(()).double() for value in held]).tolist()
        numbers.update(zip(map(id, held), flat, strict=True))
    return {
        name: {key: [(at, numbers.get(id(value), value)) for at, value in rows] for key, rows in kinds.items()}
        for name, kinds in pending.items()
    }
