"""Engine: a run's moving parts, put together from a plan, and what a checkpoint keeps of them."""

import contextlib
import dataclasses
import functools
import math
import operator
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from danlu.core.action import Stop
from danlu.core.batch import Batch
from danlu.core.clock import Clock
from danlu.core.dials import Dial, Dials, constant
from danlu.core.errors import RunError
from danlu.core.finding import Evaluation
from danlu.core.journal import number, read_journal, standing
from danlu.core.technique import Setting, StepContext, in_order
from danlu.data.examples import column_of
from danlu.data.loader import Loader, batches, share
from danlu.data.sampler import BatchSize, Position, Sampler, Wanted
from danlu.dist.state import load_state, state_of
from danlu.dist.wrap import unwrap, wrap
from danlu.models.estimate import flops_per_token
from danlu.models.forward import Forward
from danlu.models.kernels import accelerate
from danlu.monitor.base import Probes
from danlu.monitor.findings.base import with_dials
from danlu.monitor.probes.memory import peak_memory_bytes
from danlu.optim.evaluating import evaluating
from danlu.train.acts import standby
from danlu.train.checkpoint import Checkpoints
from danlu.train.evaluation import evaluate
from danlu.train.microbatch import find_micro_batch
from danlu.train.plan import Plan
from danlu.train.stepper import LossModule, Stepper, StepResult, autocast, exporting, keeps_rows
from danlu.train.watch import Watch


class Engine:
    """Holds the model, optimiser, dials, data position and clock of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.world, self.journal = plan, plan.world, plan.journal
        self.techniques = in_order([*plan.techniques, *standby(plan.techniques, plan.control)])
        self.clock = Clock(budget=plan.budget)
        self.dials = Dials([*plan.dials, *(d for t in self.techniques for d in t.dials()), _batch_dial(plan.batch)])
        self.position = Position()
        self.quarantined: frozenset[int] = frozenset()
        self.evaluation: Evaluation | None = None
        self.best: Evaluation | None = None
        self.stop: Stop | None = None
        self.saved_at: int | None = None
        self._terms: Mapping[str, Tensor] | None = None
        self._weights: tuple[Tensor, ...] = ()
        self._drawn: Wanted | None = None
        self._tokens_done, self._busy_seconds = 0, 0.0
        self.loader = Loader(
            plan.data.train,
            Sampler(plan.data.train.lengths, seed=plan.seed, bucket=plan.data.padded, run=plan.batch),
            plan.task.collate,
            rank=self.world.rank,
            world_size=self.world.size,
            note=self._note,
        )
        self._build()
        self.flops_per_token = flops_per_token(self.model, plan.data.context)
        self.probes = Probes(
            plan.probes,
            model=self.model,
            gemm_rate=plan.gemm_rate * self.world.size,
            flops_per_token=self.flops_per_token,
            world=self.world,
            frozen_on_purpose=self._frozen_on_purpose,
        )
        self.watch = Watch(self)
        self.checkpoints = Checkpoints(plan.folder / "checkpoints", self.world, note=self._note)

    def _build(self) -> None:
        """Surgery, kernels, dry run, sharding, optimiser, techniques' states: the order matters."""
        plan, model = self.plan, self.plan.model
        unasked = set() if hasattr(model, "peft_config") else _frozen(model)
        for technique in self.techniques:
            model = technique.on_model(model)
        self.model = model.to(self.world.device).train()
        loss_module = LossModule(Forward(self.model), plan.task)
        setting = Setting(
            tools=plan.data.tools,
            examples=plan.data.train.fingerprint,
            lengths_N=np.asarray(plan.data.train.lengths),
            column=functools.partial(column_of, plan.data.train),
        )
        self.active = [(technique, technique.start_in(setting, self.model)) for technique in self.techniques]
        self._frozen_on_purpose = frozenset(_frozen(self.model) - unasked)
        loss_module.active = self.active
        loss_module.keeps_rows = keeps_rows(plan.task, self.techniques, plan.probes)
        accelerate(cast(PreTrainedModel, self.model), device=self.world.device, precision=plan.precision)
        micro_cost = self._micro_cost(loss_module)
        self.module = wrap(loss_module, plan.parallel, self.world)
        self.optimizer = plan.make_optimizer(self.model)
        self.stepper = Stepper(
            self.module, self.optimizer, self.active, world=self.world, precision=plan.precision, seed=plan.seed
        )
        self.stepper.micro_cost = micro_cost

    def _micro_cost(self, loss_module: LossModule) -> int:
        """Tokens, padding included, of one micro-batch: the recipe's rows, or what a dry run on the longest rows finds.

        It runs with the kernels, which decide how much memory a row takes, and before sharding, so that every process
        tries the same things.
        """
        plan, lengths = self.plan, np.asarray(self.plan.data.train.lengths)
        longest = int(lengths.max())
        if plan.micro_batch is not None:
            return plan.micro_batch * longest
        num_rows = plan.batch.examples or max(1, (plan.batch.tokens or 1) // longest)
        num_rows = min(-(-num_rows // self.world.size), len(lengths))
        batch = share(plan.data.train, np.argsort(-lengths, kind="stable")[:num_rows], plan.task.collate, 0, 1)
        ctx = self.context()
        batch = plan.task.rollout(None, batch, ctx).to(self.world.device)

        def try_rows(num_rows: int) -> None:
            with autocast(self.world.device, plan.precision):
                losses = loss_module(batch.rows(0, num_rows), ctx)
            losses.total.backward()
            loss_module.zero_grad()

        rows = find_micro_batch(try_rows, batch.num_rows, self.world.device)
        return int(self.world.min_across(rows)) * longest

    def batch_size(self) -> BatchSize:
        """The batch to draw now, as its dial says, times the dial `batch_share` where a technique brings one."""
        share = self.dials.value("batch_share", self.clock, 1.0)
        if self.plan.batch.tokens is not None:
            return BatchSize(tokens=max(1, round(self.dials.value("batch_tokens", self.clock) * share)))
        return BatchSize(examples=max(1, round(self.dials.value("batch_examples", self.clock) * share)))

    def context(self, result: StepResult | None = None) -> StepContext:
        """What the slots of the coming step may read, or those that follow one with this result."""
        ctx = StepContext(
            clock=self.clock,
            dials=self.dials,
            model=self.model,
            seed=self.plan.seed,
            device=self.world.device,
            evaluation=self.evaluation,
            gather=self.world.gather_rows,
        )
        return ctx if result is None else dataclasses.replace(ctx, row_losses=result.row_losses)

    def draw(self) -> tuple[Batch, Position, float]:
        """This process's rows of the next batch, where the data stands after it, and the seconds waited for it."""
        batch, position, seconds = self.loader.draw(self.position, self.batch_size(), self.quarantined, self._wanted())
        self.watch.drawn.append((self.clock.step + 1, batch.example_ids_B[: batch.num_examples]))
        return batch, position, seconds

    def _wanted(self) -> Wanted | None:
        """Which examples the techniques want next; made anew only when one of them changes its mind."""
        ctx = self.context()
        found = [t.on_draw(ctx, state) for t, state in self.active if "on_draw" in t.slots()]
        weights = tuple(weights_N for weights_N in found if weights_N is not None)
        if list(map(id, weights)) != list(map(id, self._weights)):
            product_N = functools.reduce(operator.mul, weights).double().numpy() if weights else np.zeros(0)
            self._drawn = Wanted(product_N, len(self.loader.examples)) if weights else None
            self._weights = weights
        return self._drawn

    @contextlib.contextmanager
    def weights_to_use(self) -> Iterator[nn.Module]:
        """Within it the model carries the weights to evaluate and to export (averages, not the last step's)."""
        with evaluating(self.optimizer), exporting(self.model, self.active) as model:
            yield model

    def measure(self) -> tuple[dict[str, float], Mapping[str, object]]:
        """(metrics, tables) of the validation data as the model is now."""
        task, world = self.plan.task, self.world
        size = BatchSize(tokens=self.stepper.micro_cost * world.size)
        rows = batches(self.plan.data.valid, task.collate, size=size, rank=world.rank, world_size=world.size)
        module = unwrap(self.module) if self.plan.parallel.strategy == "ddp" else self.module
        with self.weights_to_use():
            return evaluate(module, task, rows, world=world, precision=self.plan.precision)

    def evaluate(self) -> bool:
        """Evaluates on the validation data, journals it, and says whether it is the best so far."""
        task, started = self.plan.task, time.monotonic()
        metrics, tables = self.measure()
        self.evaluation = Evaluation(step=self.clock.step, metrics=metrics, judged=task.judged, better=task.better)
        best = self.best is None or self.evaluation.score < self.best.score
        if best:
            self.best = self.evaluation
        self.journal.write(
            "evaluation",
            self.clock.step,
            metrics=metrics,
            **({"tables": tables} if tables else {}),
            judged=task.judged,
            better=task.better,
            best=best,
            seconds=round(time.monotonic() - started, 3),
            clock=self.shown_clock().state_dict(),
            dials=self.dials.read_all(self.shown_clock()),
        )
        self.watch.hear(self.evaluation)
        return best

    def rewind(self, run: Mapping[str, Any], *, skip_data: bool) -> None:
        """After weights and optimiser have gone back: what goes with them, while clock, dials and policy go on."""
        if not skip_data:
            self.position = Position.load(run["position"])
        self._load_techniques(run["techniques"])

    def follow(self, result: StepResult) -> None:
        """Lets the techniques follow a step that was taken; where only the device knows, they are told."""
        ctx = self.context(result)
        if result.taken is not None and self.world.device.type != "cpu":
            ctx = dataclasses.replace(ctx, taken=result.taken)
        elif result.taken is not None and not bool(result.taken):
            return
        for technique, state in self.active:
            technique.after_step(ctx, state)

    def save(self, *, best: bool = False) -> None:
        """Writes a checkpoint of everything that the next step depends on.

        Raises:
            RunError: the last loss is NaN or infinite: such weights must not take the place of good ones.
        """
        skipped = self.watch.settle_skips()
        if self._terms is not None and not math.isfinite(loss := float(self._terms["loss"])) and not skipped:
            raise RunError(
                f"the loss became {loss} at step {self.clock.step} or before",
                mend="Lower train.optimizer.lr, lengthen train.schedule.warmup, or add techniques.grad_clip",
            )
        trees = {"module": state_of(self.module, self.optimizer, frozen=False), "run": self.state()}
        started = time.monotonic()
        path = self.checkpoints.save(self.clock.step, trees, best=best)
        self.journal.write(
            "checkpoint", self.clock.step, path=path.name, best=best, seconds=round(time.monotonic() - started, 3)
        )
        self.saved_at = self.clock.step

    def restore(self, path: Path) -> None:
        """Continues from a checkpoint exactly where it was taken."""
        trees = self.checkpoints.load(path, {"run": self.state()})
        load_state(self.module, self.optimizer, trees["module"])
        self.load(trees["run"])
        if self.journal.path is not None:
            past = (
                record for record in read_journal(self.journal.path) if int(number(record["step"])) <= self.clock.step
            )
            self.watch.diagnoser.replay(standing(past))

    def close(self) -> None:
        """Waits for what is being written, and ends the loader's thread."""
        self.checkpoints.wait()
        self.loader.close()

    def restore_best(self) -> None:
        """Takes the weights of the best checkpoint; the clock stays where the run has come to."""
        path, clock = self.checkpoints.best(), self.clock
        if path is not None:
            self.restore(path)
            self.clock = clock

    def advance(self, result: StepResult, position: Position, *, seconds: float) -> None:
        """Moves the clock past a finished step; wall time is the first process's."""
        self.position = position
        self.clock = self.clock.tick(
            examples=result.num_examples,
            tokens=result.num_tokens,
            epochs=self.loader.sampler.epochs(position),
            seconds=self.world.broadcast_number(seconds),
        )

    def speed(self) -> dict[str, float]:
        """What this process did since it started: rates over the time in steps, evaluations not counted."""
        rate = self._tokens_done / self._busy_seconds if self._busy_seconds else 0.0
        return {
            "tokens_per_second": rate,
            "mfu": rate * self.flops_per_token / (self.plan.gemm_rate * self.world.size),
            "peak_memory_bytes": peak_memory_bytes(self.world.device),
            "seconds": self.clock.seconds,
        }

    def read(self, before: Clock, result: StepResult, *, step_seconds: float, data_wait_seconds: float) -> None:
        """Lets the probes read the step; when a line of the journal is due, writes it and answers to it."""
        self._terms = result.terms
        self._tokens_done += result.num_tokens
        self._busy_seconds += step_seconds
        due = before.step == 0 or self.watch.stuck or self.plan.log_every.due(before, self.clock)
        skipped = self.watch.skipped_since() if due else []
        readings = self.probes.after_step(
            self.clock,
            optimizer=self.optimizer,
            terms=result.terms,
            grad_norm=result.grad_norm,
            num_tokens=result.num_tokens,
            num_examples=result.num_examples,
            step_seconds=step_seconds,
            data_wait_seconds=data_wait_seconds,
            row_losses=result.row_losses,
            batch=result.batch,
            losses_B=result.losses_B,
            micro_batch_tokens=self.stepper.micro_cost,
            log=due,
            left_out=() if not skipped or self.watch.hopeless() else frozenset(skipped),
        )
        if readings is None:
            return
        if skipped:
            values = {**readings.values, "skipped_steps": float(len(skipped))}
            readings = dataclasses.replace(readings, values=values)
        own = {name: value for technique, state in self.active for name, value in technique.readings(state).items()}
        readings = dataclasses.replace(readings, values={**readings.values, **own})
        readings, clock = self.watch.with_traced(readings), self.shown_clock()
        dials = self.dials.read_all(clock)
        self.journal.write(
            "reading",
            clock.step,
            values=readings.values,
            tokens=clock.tokens,
            examples=clock.examples,
            epochs=clock.epochs,
            seconds=clock.seconds,
            progress=round(clock.progress, 6),
            dials=dials,
            **({"noted": readings.examples} if readings.examples else {}),
        )
        self.watch.hear(with_dials(readings, dials))

    def shown_clock(self) -> Clock:
        """The clock as the journal shows it: decisions rest on nothing that cannot be read there."""
        return dataclasses.replace(self.clock, epochs=round(self.clock.epochs, 6), seconds=round(self.clock.seconds, 3))

    def state(self, *, good: bool = True) -> dict[str, Any]:
        """Besides weights and optimiser, all that the next step depends on; `good` with the state to go back to."""
        saved = {
            technique.name(): state.state_dict()
            for technique, state in self.active
            if state is not None and technique.state == "saved"
        }
        return {
            "clock": self.clock.state_dict(),
            "dials": self.dials.state_dict(),
            "position": self.position.state_dict(),
            "quarantined": sorted(self.quarantined),
            "micro_cost": self.stepper.micro_cost,
            "scaler": self.stepper.scaler.state_dict(),
            "evaluation": dataclasses.asdict(self.evaluation) if self.evaluation else None,
            "best": dataclasses.asdict(self.best) if self.best else None,
            "techniques": saved,
            "probes": self.probes.state_dict(),
            "watch": self.watch.state_dict(good=good),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes in what `state` gave."""
        self.clock = self.clock.load(state["clock"])
        self.dials.load_state_dict(state["dials"])
        self.position = Position.load(state["position"])
        self.quarantined = frozenset(state["quarantined"])
        self.stepper.micro_cost = int(state["micro_cost"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.evaluation = Evaluation(**state["evaluation"]) if state["evaluation"] else None
        self.best = Evaluation(**state["best"]) if state["best"] else None
        self.probes.load_state_dict(state["probes"])
        self.watch.load_state_dict(state["watch"])
        self._load_techniques(state["techniques"])

    def _load_techniques(self, saved: Mapping[str, Any]) -> None:
        for technique, memory in self.active:
            if memory is not None and technique.name() in saved:
                memory.load_state_dict(saved[technique.name()])

    def _note(self, text: str) -> None:
        self.journal.write("note", self.clock.step, text=text)


def _frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def _batch_dial(batch: BatchSize) -> Dial:
    if batch.tokens is not None:
        return constant("batch_tokens", batch.tokens, low=1, unit="tokens")
    return constant("batch_examples", batch.examples or 1, low=1, unit="examples")
