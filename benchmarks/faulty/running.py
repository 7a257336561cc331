"""One run: a healthy recipe, perhaps a fault put into it, perhaps somebody who looks after it; what came of it."""

import contextlib
import copy
import dataclasses
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danlu.core.journal import Journal, read_journal
from danlu.core.seeds import seed_of
from danlu.data.examples import ExampleSet
from danlu.data.loader import batches
from danlu.data.sampler import BatchSize
from danlu.dist.world import World
from danlu.models.build import build_model
from danlu.recipe import document
from danlu.recipe.recipe import Recipe
from danlu.recipe.resolved import resolved_tree
from danlu.stages.report.records import load_run
from danlu.stages.train import _plan
from danlu.train.engine import Engine
from danlu.train.evaluation import evaluate
from danlu.train.interrupts import Interrupts
from danlu.train.loop import train as run_loop
from danlu.train.plan import Plan
from faulty import rivals
from faulty.faults import FAULTS, Fault
from faulty.injecting import Damage, metrics_of
from faulty.tasks import TASKS, Tree, prepared
from faulty.watch import Watch

LIMIT_SECONDS = 240


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What to run. `fault` is the name of a cell's fault, empty for a healthy run; `policy` who looks after it.

    `reference` runs the healthy side of that fault: the same recipe but for the fault. `variation` numbers a healthy
    run of another size, batch, schedule and optimiser.
    """

    task: str
    seed: int
    policy: str = "off"
    fault: str = ""
    reference: bool = False
    variation: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run; `score` is on test rows, higher is better. JSON types only."""

    job: Job
    score: float
    status: str
    reason: str
    steps: int
    rows: int
    seconds: float
    cpu_seconds: float
    rate: float
    findings: list[dict[str, Any]]
    actions: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    notes: Mapping[str, Any]
    stops: Mapping[str, Any] | None = None


class Seen:
    """What the benchmark sees of a run that its journal does not say: rows computed on, ids drawn, steps taken."""

    def __init__(self, engine: Engine) -> None:
        self.rows, self.ids = 0, []
        self._engine = engine
        self._step = engine.stepper.step
        engine.stepper.step = self.step

    def step(self, batch: Any, ctx: Any) -> Any:
        self.rows += batch.num_rows
        self.ids.append((ctx.clock.step, batch.example_ids_B.tolist()))
        return self._step(batch, ctx)


def run(job: Job, *, keep: Path | None = None) -> Outcome:
    """Runs it in this process. `keep` is a folder for the run's journal and checkpoints; else they are thrown away."""
    folder = keep or Path(tempfile.mkdtemp(prefix="danlu-fault-"))
    known = FAULTS.get(job.fault)
    try:
        with _limited():
            prepared(job.task)
            tree = recipe_of(job)
            first = _run(job, tree, folder)
            if job.policy != "danlu" or known is None or not known.rounds:
                return first
            tree = _corrected(tree, folder)
            return first if tree is None else _joined(first, _run(job, tree, folder / "next"))
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def recipe_of(job: Job) -> Tree:
    """The recipe tree of a job, the fault's part of it included."""
    tree = copy.deepcopy({**TASKS[job.task].recipe, "task": TASKS[job.task].recipe["task"]})
    tree["seed"] = job.seed
    tree["control"] = "auto" if job.policy == "danlu" else "off"
    if job.variation is not None:
        vary(tree, job.task, job.variation)
    if job.fault:
        fault = FAULTS[job.fault]
        fault.base(tree, job.task)
        if not job.reference:
            fault.recipe(tree, job.task)
    return tree


def _corrected(tree: Tree, folder: Path) -> Tree | None:
    """What danlu makes of the recipe for the next round; None where it would change nothing.

    No recipe's file can name a task that only the benchmark knows: while it is looked at, another has its place.
    """
    from danlu.stages.improve import changes_for

    shown = resolved_tree(Recipe.model_validate({**tree, "task": "image-classification"}))
    (folder / "recipe.yaml").write_text(document.dump(shown))
    found = load_run(folder)
    changes = changes_for(found.recipe, found)
    for change in changes:
        *path, last = change.place.split(".")
        section = tree
        for name in path:
            section = section.setdefault(name, {})
        section[last] = change.after
    return tree if changes else None


def _joined(first: Outcome, second: Outcome) -> Outcome:
    """The next round's result, with the findings and the costs of both."""
    both = {name: getattr(first, name) + getattr(second, name) for name in ("steps", "rows", "seconds", "cpu_seconds")}
    told = {name: getattr(first, name) + getattr(second, name) for name in ("findings", "actions", "verdicts")}
    return dataclasses.replace(second, **both, **told)


def _run(job: Job, tree: Tree, folder: Path) -> Outcome:
    known = FAULTS.get(job.fault)
    fault = None if job.reference else known
    data, test = prepared(job.task)
    recipe = Recipe.model_validate(tree)
    damage = Damage(task=job.task, seed=job.seed, rng=np.random.default_rng(seed_of(job.seed, "fault", job.fault)))
    if known is not None:
        data = known.shared(data, damage)
    if fault is not None:
        data = fault.data(data, damage)
    model = build_model(
        recipe.model,
        auto_class=recipe.task.model_class,
        vocab_size=data.vocab_size,
        context=data.context,
        options=data.model_options,
        special_tokens=data.special_tokens,
        seed=recipe.seed,
    )
    if fault is not None:
        fault.model(model, damage)
    journal = Journal(folder / "journal.jsonl")
    plan = _plan(recipe, recipe.task.for_model(model), data, model, World(), journal, folder)
    if fault is not None:
        plan = dataclasses.replace(plan, make_optimizer=fault.optimizer(plan.make_optimizer, damage))
    with contextlib.closing(journal):
        return _train(job, plan, test, fault, damage)


def _train(job: Job, plan: Plan, test: ExampleSet, fault: Fault | None, damage: Damage) -> Outcome:
    engine = Engine(plan)
    seen, watch = Seen(engine), None
    if fault is not None:
        fault.engine(engine, damage)
    if job.policy == "off":
        watch = Watch(engine, lambda: _score(job, engine, test))
    elif job.policy != "danlu":
        engine.watch.policy = rivals.POLICIES[job.policy](engine)
    started, cpu = time.monotonic(), time.process_time()
    status, reason = "failed", ""
    try:
        with np.errstate(all="ignore"):
            ending = run_loop(engine, Interrupts())
        status, reason = ending.status, ending.reason
    except Exception as error:  # noqa: BLE001 - a run that breaks in whatever way is a failed run, told with its reason
        reason = f"{type(error).__name__}: {error}"
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    if job.reference and FAULTS[job.fault].oracle:
        engine.restore_best()
    score = _score(job, engine, test) if status == "finished" else TASKS[job.task].score({})
    engine.close()
    records = list(read_journal(plan.folder / "journal.jsonl"))
    return Outcome(
        job=job,
        score=score,
        status=status,
        reason=reason,
        steps=len(seen.ids),
        rows=seen.rows,
        seconds=seconds,
        cpu_seconds=cpu,
        rate=_rate(records),
        findings=[r if r["kind"] == "finding" else _as_finding(r) for r in records if _is_finding(r)],
        actions=[r for r in records if r["kind"] == "action"],
        verdicts=[r for r in records if r["kind"] == "verdict"],
        notes=damage.notes(seen.ids),
        stops=watch.told() if watch is not None else None,
    )


def _is_finding(record: Mapping[str, Any]) -> bool:
    return record["kind"] == "finding" or (record["kind"] == "note" and "worker died" in record["text"])


def _as_finding(note: Mapping[str, Any]) -> dict[str, Any]:
    """The loader tells of a dead worker in a note, since it has replaced it already."""
    return {**note, "name": "worker_killed", "severity": "warning", "sentence": note["text"], "evidence": {}}


def _score(job: Job, engine: Engine, test: ExampleSet) -> float:
    """On the test rows, which neither the run nor whoever looks after it has seen."""
    task = engine.plan.task
    rows = batches(test, task.collate, size=BatchSize(examples=256))
    with engine.weights_to_use():
        found = evaluate(engine.module, task, rows, world=engine.world, precision=engine.plan.precision)
    known = FAULTS.get(job.fault)
    metrics = metrics_of(found, balanced=known is not None and known.score == "balanced")
    return TASKS[job.task].score(metrics, by_loss=known is not None and known.score == "loss")


def _rate(records: list[dict[str, Any]]) -> float:
    """Examples a second over the second half of the run: the median over its readings, which others disturb least."""
    rates = [float(r["values"].get("examples_per_second", 0.0)) for r in records if r["kind"] == "reading"]
    half = sorted(rates[len(rates) // 2 :])
    return half[len(half) // 2] if half else 0.0


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """A run that hangs fails instead of holding up all others."""

    def give_up(_number: int, _frame: object) -> None:
        raise RuntimeError(f"the run took more than {LIMIT_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Plain values."""
    return json.loads(json.dumps(dataclasses.asdict(outcome)))


def vary(tree: Tree, task: str, number: int) -> None:
    """Another healthy recipe: size, batch, schedule, length and optimiser drawn from what is usual."""
    rng = np.random.default_rng(seed_of(number, "variation", task))
    train, design = tree["train"], tree["model"]["design"]
    design["width"] = int(design["width"] * rng.choice([1, 1, 2]))
    design["layers"] = int(design["layers"] + rng.choice([0, 0, 1]))
    grow = float(rng.choice([0.5, 1, 2]))
    train["batch"] = {name: int(size * grow) for name, size in train["batch"].items()}
    train["schedule"] = {
        "warmup": str(rng.choice(["5%", "10%", "20%"])),
        "shape": str(rng.choice(["cosine", "linear", "constant", "wsd"])),
        "floor": str(rng.choice(["0%", "10%"])),
    }
    rate = train["optimizer"]["lr"] * float(rng.choice([0.5, 0.7, 1.0])) * min(1.0, grow) ** 0.5
    kinds = {"adamw": rate, "lion": rate / 5, "adafactor": rate}
    kind = str(rng.choice(list(kinds)))
    if train["optimizer"]["kind"] == "sgd":
        train["optimizer"] = {**train["optimizer"], "lr": rate}
    else:
        train["optimizer"] = {"kind": kind, "lr": kinds[kind]}
    if rng.random() < 0.3:
        tree["techniques"] = {"grad_clip": {"norm": 1.0}}


torch.set_num_threads(1)
