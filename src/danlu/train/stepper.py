"""Stepper: one optimiser step. A batch becomes micro-batches, a loss, gradients, and a changed model."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from danlu.core.batch import Batch, RowLosses
from danlu.core.errors import OutOfMemoryError, RequestError
from danlu.core.outputs import Call, Outputs
from danlu.core.seeds import seed_of
from danlu.core.technique import StepContext, Technique, TechniqueState
from danlu.dist.local import reshard
from danlu.dist.world import World
from danlu.dist.wrap import full_weights, gradient_scale, synchronised, unwrap
from danlu.models.forward import Forward
from danlu.monitor.base import Probe
from danlu.tasks.base import Task
from danlu.train.contrast import Gathered, Pull, Taker, pulls
from danlu.train.guard import StepGuard, only_if
from danlu.train.microbatch import is_out_of_memory
from danlu.train.plan import Precision

Active = Sequence[tuple[Technique, TechniqueState | None]]
Trace = Callable[[Batch, Callable[[], Tensor]], None]
"""Is given a batch whose step was not finite, and the means to compute it again"""


class Losses(NamedTuple):
    """The summed loss to go backward from, its terms by name, and the loss of each row where it is to be kept."""

    total: Tensor
    terms: Mapping[str, Tensor]
    rows_B: Tensor | None = None


class LossModule(nn.Module):
    """The model and everything up to the loss in one forward, which is what DDP and FSDP hook into."""

    def __init__(self, forward: Forward, task: Task) -> None:
        super().__init__()
        self.net = forward
        self.task = task
        self.active: Active = ()
        self.keeps_rows = False

    def forward(
        self,
        batch: Batch,
        ctx: StepContext,
        evaluator: Taker | None = None,
        pull: Pull | None = None,
    ) -> Losses:
        """The losses; an evaluator takes in the outputs instead.

        Of the task's readings, `task/NAME`, a term holds the sum and what it is to be divided by.

        `pull` stands for the loss of a task that compares rows, in one of several micro-batches.
        """
        if evaluator is not None:
            evaluator.update(self.task.forward(self.net, batch), batch)
            return Losses(torch.zeros(()), {})
        outputs = self._outputs(batch, ctx)
        total = outputs.loss if pull is None else pull.term(outputs)
        terms = {"loss": total.detach()}
        for name, (counted, number) in self.task.readings(outputs, batch).items():
            terms[f"task/{name}"] = torch.stack([counted.detach(), number])
        for technique, state in self.active:
            for name, term in technique.loss_terms(outputs, batch, ctx, state).items():
                total = total + term
                terms[name] = term.detach()
        return Losses(total, terms, self.task.losses(outputs, batch) if self.keeps_rows else None)

    def _outputs(self, batch: Batch, ctx: StepContext, call: Call | None = None) -> Outputs:
        """What the network, or another one by `call`, makes of a batch, with what the techniques need besides."""
        if call is None:
            also = {name for technique, _ in self.active for name in technique.needs()}
            call = functools.partial(self.net, also=also) if also else self.net
        return self.task.forward(call, batch).bound(
            loss_of=lambda made: self.task.loss(made, batch, ctx), again=functools.partial(self._outputs, batch, ctx)
        )


def keeps_rows(task: Task, techniques: Sequence[Technique], probes: Sequence[Probe]) -> bool:
    """Whether a technique needs the loss of single rows, or a probe wants it and may have it.

    Raises:
        RequestError: a technique needs what the task does not tell.
    """
    needing = [part.name() for part in techniques if part.needs_row_losses]
    if needing and not task.tells_losses:
        problem = f"{needing[0]} reads the loss of single rows, which {task.kind()} does not tell"
        raise RequestError(problem, where="techniques", mend="Switch it off")
    wanted = any(probe.needs_row_losses for probe in probes)
    return bool(needing) or (wanted and task.tells_losses and not task.contrasted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step did, as device tensors: mean loss terms over the global targets, gradient norm.

    `row_losses()` gathers the losses of all processes' rows, once; they are known where somebody needs them. `batch` is
    what this process computed on, `losses_B` its rows' losses. `taken` is a boolean: whether the gradient was used;
    None when nobody watches over it.
    """

    terms: Mapping[str, Tensor]
    grad_norm: Tensor
    taken: Tensor | None = None
    num_examples: int
    num_tokens: int
    num_targets: int
    row_losses: Callable[[], RowLosses]
    batch: Batch | None = None
    losses_B: Tensor | None = None


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Mixed precision by torch's own rules; nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=kind)


class Stepper:
    """Runs steps over `module` (a LossModule, wrapped for its world or not).

    The loss is the sum over all valid targets of the step, on all micro-batches and processes, divided by their
    number. Each micro-batch is seeded from the clock, so that dropout is the same whenever the step is run.
    A micro-batch holds at most `micro_cost` tokens, padding included; that is halved when memory runs out, and the
    batch stays what it was.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, active: Active, *, world: World, precision: Precision, seed: int
    ) -> None:
        self.module, self.optimizer, self.active = module, optimizer, active
        self.world, self.precision, self.seed = world, precision, seed
        self.micro_cost = 1
        self.guard: StepGuard | None = None
        self.skip_next = False
        self.trace: Trace | None = None
        self._changed = any("on_grads" in item.slots() and not _is_off(item) for item, _ in active)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")

    @property
    def _task(self) -> Task:
        return cast(LossModule, unwrap(self.module)).task

    def step(self, batch: Batch, ctx: StepContext) -> StepResult:
        """Gradients over the whole batch, techniques' changes to them, and the optimiser; as often as the task asks."""
        ctx = dataclasses.replace(ctx, losses=functools.partial(self.losses, ctx))
        for technique, state in self.active:
            batch = technique.on_batch(batch, ctx, state)
        batch = self._rolled_out(batch.to(self.world.device), ctx)
        counts = torch.tensor([batch.num_examples, batch.num_tokens, batch.num_targets], device=self.world.device)
        examples, tokens, targets = (int(count) for count in self.world.sum_across(counts))
        ctx = dataclasses.replace(ctx, num_targets=targets)
        for _ in range(self._task.updates):
            result = self._learn(batch, ctx, examples, tokens)
        return result

    def _rolled_out(self, batch: Batch, ctx: StepContext) -> Batch:
        if not self._task.rolls_out:
            return batch
        with torch.no_grad(), full_weights(self.module) as whole, autocast(self.world.device, self.precision):
            return self._task.rollout(cast(LossModule, whole).net, batch, ctx)

    def _learn(self, batch: Batch, ctx: StepContext, examples: int, tokens: int) -> StepResult:
        """One update of the optimiser."""
        terms, rows_B = self._gradients_as_told(batch, ctx)
        self.scaler.unscale_(self.optimizer)
        norm = functools.cache(self._grad_norm)
        ctx = dataclasses.replace(ctx, grad_norm=norm)
        for technique, state in self.active:
            technique.on_grads(self.parameters, ctx, state)
        self._turn(ctx)
        taken = self._update(ctx.clock.step + 1, terms, norm())
        if self.trace is not None and not math.isfinite(float(terms["loss"] + norm())):
            self.trace(batch, functools.partial(self._again, batch, ctx))
        return StepResult(
            terms=terms,
            grad_norm=norm(),
            taken=taken,
            num_examples=examples,
            num_tokens=tokens,
            num_targets=ctx.num_targets,
            row_losses=functools.cache(lambda: self._row_losses(batch, rows_B)),
            batch=batch,
            losses_B=rows_B,
        )

    def _gradients_as_told(self, batch: Batch, ctx: StepContext) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """The step's gradients: plain, or by a technique with a way of its own to them."""
        compute = functools.partial(self._gradients, batch, ctx)
        own = [(item, state) for item, state in self.active if item.has_own_gradients()]
        return own[0][0].gradients(compute, self.parameters, ctx, own[0][1]) if own else compute()

    def _again(self, batch: Batch, ctx: StepContext) -> Tensor:
        """The loss and the gradients of a step once more, as they came before techniques changed them."""
        self.optimizer.zero_grad()
        return self._accumulate(batch, ctx)[0]["loss"]

    def _update(self, step: int, terms: Mapping[str, Tensor], norm: Tensor) -> Tensor | None:
        """The optimiser's step, unless the gradient is not to be used; returns whether it was."""
        taken = None
        if self.guard is not None:
            # what techniques made of the gradient counts too, where it is no number
            norm = norm + 0 * self._grad_norm() if self._changed else norm
            taken = self.guard.judge(step, terms["loss"], norm)
        if self.skip_next:
            taken, self.skip_next = torch.zeros((), dtype=torch.bool, device=self.world.device), False
        if taken is None or self.world.device.type == "cpu":
            if taken is None or bool(taken):
                self.scaler.step(self.optimizer)
        else:
            with only_if(taken, self.optimizer, fused=not self.scaler.is_enabled()):
                self.scaler.step(self.optimizer)
        self.scaler.update()
        return taken

    @torch.no_grad()
    def losses(self, ctx: StepContext, batch: Batch, call: Call | None = None) -> Tensor:
        """(B,): the losses of a batch's rows, each its own, the model at rest; `call` runs another model.

        Raises:
            RequestError: the task compares rows, or does not tell their losses.
        """
        task = self._task
        if task.contrasted or not task.tells_losses:
            problem = f"{task.kind()} has no loss of a single row before the batch is chosen"
            raise RequestError(problem, where="techniques", mend="Switch off what chooses rows by their loss")
        taker, training = _LossTaker(task), self.module.training
        self.module.eval()
        try:
            for index, micro in enumerate(self._micro_batches(batch.to(self.world.device))):
                if call is None:
                    self._run(index, micro, ctx, evaluator=taker)
                else:
                    with autocast(self.world.device, self.precision):
                        taker.update(task.forward(call, micro), micro)
        finally:
            self.module.train(training)
            reshard(self.module)
        return torch.cat(taker.losses)[: batch.num_rows]

    def _row_losses(self, batch: Batch, losses_B: Tensor | None) -> RowLosses:
        """Those of all processes; rows without a target, a process's stand-in among them, have no loss to tell."""
        if losses_B is None:
            raise RuntimeError("nobody said that the losses of rows are needed")
        columns = torch.stack([batch.example_ids_B.double(), losses_B.double(), batch.targets_B.double()], 1)
        columns, _ = self.world.gather_rows(columns[batch.targets_B > 0])
        ids_B, losses_B, targets_B = columns.unbind(1)
        return RowLosses(example_ids_B=ids_B.long(), losses_B=losses_B.float(), targets_B=targets_B.long())

    def _gradients(self, batch: Batch, ctx: StepContext) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Leaves the step's gradients on the parameters; with less memory than hoped for, in smaller pieces."""
        while True:
            self.optimizer.zero_grad()
            try:
                return self._accumulate(batch, ctx)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.world.size > 1:
                    raise
            rows = min(self._rows_of(batch), batch.num_rows)
            if rows == 1:
                raise OutOfMemoryError(
                    "not even one row of a batch fits in memory",
                    mend="Shorten data.context, choose a smaller model, or switch activation_checkpointing on",
                )
            self.micro_cost = rows // 2 * max(1, int(batch.tokens_B.max()))

    def _accumulate(self, batch: Batch, ctx: StepContext) -> tuple[Mapping[str, Tensor], Tensor | None]:
        totals: dict[str, Tensor] = {}
        rows: list[Tensor] = []
        micros = self._micro_batches(batch)
        scale = gradient_scale(self.world) / max(ctx.num_targets, 1)
        for index, (micro, pull) in enumerate(zip(micros, self._pulls(micros, ctx), strict=True)):
            with synchronised(self.module, index == len(micros) - 1):
                found = self._run(index, micro, ctx, pull=pull)
                self.scaler.scale(found.total * scale).backward()
            for name, term in found.terms.items():
                totals[name] = totals.get(name, 0.0) + term.float()
            if found.rows_B is not None:
                rows.append(found.rows_B)
        means = {name: self.world.sum_across(total) for name, total in sorted(totals.items())}
        means = {
            name: total[0] / total[1].clamp(min=1) if total.ndim else total / max(ctx.num_targets, 1)
            for name, total in means.items()
        }
        return means, torch.cat(rows)[: batch.num_rows] if rows else None

    def _pulls(self, micros: Sequence[Batch], ctx: StepContext) -> Sequence[Pull | None]:
        """Where the task compares rows and they do not all come in one piece: what stands for its loss in each."""
        task = self._task
        if not task.contrasted or (len(micros) == 1 and self.world.size == 1):
            return [None] * len(micros)
        gathered = Gathered()
        with torch.no_grad():
            for index, micro in enumerate(micros):
                self._run(index, micro, ctx, evaluator=gathered)
        return pulls(task, micros, gathered.outputs, ctx, self.world)

    def _run(self, index: int, micro: Batch, ctx: StepContext, **how: object) -> Losses:
        """Seeded by its place, so that to run it twice gives the same."""
        torch.manual_seed(seed_of(self.seed, "step", ctx.clock.step, self.world.rank, index))
        with autocast(self.world.device, self.precision):
            result: Losses = self.module(micro, ctx, **how)
        return result

    def _micro_batches(self, batch: Batch) -> list[Batch]:
        """Equal in number on every process, since each forward of a sharded model is a meeting of all of them."""
        micros = batch.split(self._rows_of(batch))
        missing = int(self.world.max_across(len(micros))) - len(micros)
        return micros + [batch.muted()] * missing

    def _rows_of(self, batch: Batch) -> int:
        """Rows of one micro-batch: rows of a batch are as long as its longest."""
        return max(1, self.micro_cost // max(1, int(batch.tokens_B.max())))

    def _grad_norm(self) -> Tensor:
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _turn(self, ctx: StepContext) -> None:
        """Turns the optimiser's own knobs to where the dials stand."""
        rate, decay = ctx.dial("learning_rate"), ctx.dial("weight_decay", 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
            group["weight_decay"] = decay * group.get("decay", 0.0)


class _LossTaker:
    """Takes each row's loss from the outputs."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.losses: list[Tensor] = []

    def update(self, outputs: Outputs, batch: Batch) -> None:
        self.losses.append(self.task.losses(outputs, batch))


def _is_off(technique: Technique) -> bool:
    return bool(technique.off) and technique == type(technique)(**technique.off)  # type: ignore[arg-type]


@contextlib.contextmanager
def exporting(model: nn.Module, active: Active) -> Iterator[nn.Module]:
    """Within it the model carries the weights to evaluate and to export, as the techniques have them."""
    with contextlib.ExitStack() as stack:
        for technique, state in active:
            model = stack.enter_context(technique.on_export(model, state))
        yield model
