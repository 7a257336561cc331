"""Train: from a recipe to a run folder with a model, a summary and a report."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import danlu
from danlu.core.errors import DanluError, RequestError
from danlu.core.journal import Journal, Record
from danlu.data.places import telling_disk_troubles
from danlu.dist.world import World, start_world, stop_world
from danlu.dist.wrap import full_weights
from danlu.models.build import build_model
from danlu.models.estimate import num_parameters
from danlu.models.hardware import measure_gemm, pick_precision
from danlu.models.save import save_model
from danlu.monitor.base import default_probes
from danlu.monitor.probes.memory import reset_peak_memory
from danlu.monitor.trackers.base import following, trackers
from danlu.optim.build import build_optimizer
from danlu.recipe.load import load_recipe
from danlu.recipe.recipe import Recipe
from danlu.recipe.resolved import resolved_tree, resolved_yaml
from danlu.stages.improve import write_next
from danlu.stages.report import write_report
from danlu.stages.run_folder import new_run_folder, run_to_resume, write_atomically, write_summary
from danlu.stages.summary import summarise
from danlu.tasks.base import Prepared, Task
from danlu.train.engine import Engine
from danlu.train.interrupts import Interrupts
from danlu.train.loop import Ending
from danlu.train.loop import train as run_loop
from danlu.train.plan import Plan
from danlu.train.range_test import LOWEST, Found, find_rate

Listener = Callable[[Record], None]


def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    listeners: Sequence[Listener] = (),
    interrupts: Interrupts | None = None,
) -> Path:
    """Trains what `recipe` describes and returns the run's folder.

    Everything that can be wrong with the request is found before the folder is made.

    Args:
        recipe: what to do.
        out: the run's folder; the next `runs/NAME/NUMBER` when absent.
        resume: go on from the newest good checkpoint of `out`, or of the newest run of this name.
        listeners: called with every record of the journal.
        interrupts: entered by the caller, who may so ask for a stop and hear of signals; the run's own when absent.

    Raises:
        RequestError: the request was wrong; nothing was started or written.
        RunError: the run failed; its journal and summary say why.
    """
    world = start_world(recipe.parallel)
    reset_peak_memory(world.device)
    try:
        return _train(recipe, world, out, resume, listeners, interrupts)
    finally:
        stop_world()


def _train(
    recipe: Recipe,
    world: World,
    out: Path | None,
    resume: bool,
    listeners: Sequence[Listener],
    interrupts: Interrupts | None,
) -> Path:
    resumed = run_to_resume(recipe.name, out) if resume else None
    boards_asked = trackers(recipe.track if world.is_first else ())
    say = _speaker(world, listeners)
    base = recipe.model.from_
    data = recipe.task.prepare(recipe.data, seed=recipe.seed, base=base, say=say)
    searched = None
    if recipe.train.optimizer.lr == "find":
        recipe, searched = _with_found_rate(recipe, data, world, resumed, say)
    say("building the model")
    model = _model(recipe, data, world)
    task = recipe.task.for_model(model)
    folder = resumed or Path(world.broadcast_object(new_run_folder(recipe.name, out) if world.is_first else None))
    journal = Journal(folder / "journal.jsonl" if world.is_first else None)
    boards = following(boards_asked, folder=folder, name=recipe.name, recipe=resolved_tree(recipe))
    with contextlib.closing(journal), boards as followers:
        for listener in (*listeners, *followers):
            journal.subscribe(listener)
        plan = _plan(recipe, task, data, model, world, journal, folder)
        return _run(plan, recipe, resume=resumed is not None, interrupts=interrupts, searched=searched)


def _model(recipe: Recipe, data: Prepared, world: World) -> Any:
    precision = pick_precision(recipe.train.precision, world.device)
    return build_model(
        recipe.model,
        auto_class=recipe.task.model_class,
        vocab_size=data.vocab_size,
        context=data.context,
        options=data.model_options,
        special_tokens=data.special_tokens,
        seed=recipe.seed,
        frozen_dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )


def _with_found_rate(
    recipe: Recipe, data: Prepared, world: World, resumed: Path | None, say: Callable[[str], None]
) -> tuple[Recipe, Found | None]:
    """The recipe with the rate that was found when the run began, or is found now on a model of its own."""
    told = resumed / "recipe.yaml" if resumed else None
    known = load_recipe(told).train.optimizer.lr if world.is_first and told and told.is_file() else None
    rate, found = world.broadcast_object(known), None
    if not isinstance(rate, float):
        say("looking for a learning rate")
        low = _at_rate(recipe, LOWEST)
        model = _model(low, data, world)
        plan = _plan(low, low.task.for_model(model), data, model, world, Journal(None), Path())
        found = find_rate(plan)
        rate = found.rate
    return _at_rate(recipe, rate), found


def _at_rate(recipe: Recipe, rate: float) -> Recipe:
    train = recipe.train
    return recipe.model_copy(update={"train": train.model_copy(update={"optimizer": train.optimizer.with_rate(rate)})})


def _run(plan: Plan, recipe: Recipe, *, resume: bool, interrupts: Interrupts | None, searched: Found | None) -> Path:
    """The run itself; however it ends, the journal and the summary say so.

    A request that proves wrong before the start leaves nothing behind: no new folder, and an old run as it was.
    """
    engine, started = None, False
    try:
        with telling_disk_troubles(plan.folder, setting="--out"):
            with contextlib.nullcontext(interrupts) if interrupts else Interrupts() as stopper:
                engine = Engine(plan)
                resumed_from = _restore(engine) if resume else None
                started = True
                _start(engine, recipe, resumed_from, searched)
                ending = run_loop(engine, stopper)
            _export(engine, recipe)
            engine.close()
    except RequestError as error:
        if started:
            _fail(plan, engine, error)
        elif plan.world.is_first and not resume:
            shutil.rmtree(plan.folder, ignore_errors=True)
        raise
    except BaseException as error:
        _fail(plan, engine, error)
        raise
    with telling_disk_troubles(plan.folder, setting="--out"):
        _end(plan, engine, ending)
    return plan.folder


def _plan(recipe: Recipe, task: Task, data: Prepared, model: Any, world: World, journal: Journal, folder: Path) -> Plan:
    train = recipe.train
    precision = pick_precision(train.precision, world.device)
    return Plan(
        name=recipe.name,
        seed=recipe.seed,
        task=task,
        data=data,
        model=model,
        make_optimizer=lambda module: build_optimizer(train.optimizer, module),
        dials=(train.schedule.dial(train.optimizer.rate),),
        techniques=recipe.techniques,
        probes=default_probes(),
        control=recipe.control,
        budget=train.budget,
        batch=train.batch,
        evaluate_every=train.evaluate_every,
        checkpoint_every=train.checkpoint_every,
        log_every=train.log_every,
        precision=precision,
        world=world,
        parallel=recipe.parallel,
        journal=journal,
        folder=folder,
        gemm_rate=measure_gemm(precision, world.device),
        micro_batch=train.micro_batch,
        samples=train.samples,
        pretrained=recipe.model.from_ is not None,
    )


def _start(engine: Engine, recipe: Recipe, resumed_from: int | None, searched: Found | None) -> None:
    """Writes the resolved recipe, the `start` record, and what goes with a new run."""
    plan = engine.plan
    if plan.world.is_first:
        write_atomically(plan.folder / "recipe.yaml", resolved_yaml(recipe))
    engine.journal.write(
        "start",
        engine.clock.step,
        **({} if resumed_from is None else {"resumed_from": resumed_from}),
        danlu=danlu.__version__,
        name=plan.name,
        task=plan.task.kind(),
        world_size=plan.world.size,
        strategy=plan.parallel.strategy if plan.world.size > 1 else "single",
        device=str(plan.world.device),
        precision=plan.precision,
        gemm_rate_flops=plan.gemm_rate,
        parameters=num_parameters(engine.model),
        trainable_parameters=num_parameters(engine.model, trainable=True),
        micro_batch_tokens=engine.stepper.micro_cost,
        budget=plan.budget,
        **plan.data.facts,
    )
    if searched is not None:
        text = f"a learning rate of {searched.rate:g} was found in {len(searched.curve)} steps"
        engine.journal.write("note", engine.clock.step, text=text, rate=searched.rate, curve=searched.curve)
    if recipe.train.optimizer.offload and plan.world.device.type == "cpu":
        text = "train.optimizer.offload does nothing here: the weights are in the CPU's memory themselves"
        engine.journal.write("note", engine.clock.step, text=text)
    if resumed_from is None:
        for row in plan.data.skipped:
            engine.journal.write("note", 0, text="a row of the data was skipped", **row)
        _write_samples(engine)


def _restore(engine: Engine) -> int:
    path = engine.checkpoints.newest()
    if path is None:
        return 0
    engine.restore(path)
    if engine.clock.done:
        raise RequestError(
            f"the run has used its budget ({engine.clock.step} steps)",
            mend="Raise train.budget to go on, as in train.budget.steps=2000",
        )
    return engine.clock.step


def _export(engine: Engine, recipe: Recipe) -> None:
    """Samples, and `model/` in Hugging Face's layout."""
    _write_samples(engine)
    with engine.weights_to_use(), full_weights(engine.module):
        if engine.world.is_first:
            adapter = recipe.model.adapter
            data = recipe.data.model_copy(update=engine.plan.data.found)
            save_model(
                engine.model,
                engine.plan.folder / "model",
                tools=engine.plan.data.tools,
                merge=bool(adapter and adapter.merge),
                notes={"danlu": danlu.__version__, **recipe.task.notes(data)},
                files=recipe.task.files(engine.model, data),
            )
        engine.world.barrier()


def _write_samples(engine: Engine) -> None:
    if not engine.plan.samples:
        return
    with engine.weights_to_use(), full_weights(engine.module):
        if engine.world.is_first:
            for sample in engine.plan.task.samples(engine.model, engine.plan.data, engine.plan.seed):
                engine.journal.write("sample", engine.clock.step, **sample)
        engine.world.barrier()


def _fail(plan: Plan, engine: Engine | None, error: BaseException) -> None:
    """Says why in the journal and the summary, as far as the disk lets it."""
    reason = str(error) if isinstance(error, DanluError) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt):
        reason = "interrupted before it could stop in order"
    with contextlib.suppress(OSError):
        _end(plan, engine, Ending(status="failed", reason=reason))


def _end(plan: Plan, engine: Engine | None, ending: Ending) -> None:
    clock = engine.clock if engine else None
    plan.journal.write(
        "end",
        clock.step if clock else 0,
        status=ending.status,
        reason=ending.reason,
        seconds=clock.seconds if clock else 0.0,
        speed=engine.speed() if engine else {},
    )
    if plan.world.is_first:
        begun = (plan.folder / "recipe.yaml").is_file()
        asked = engine is not None and engine.stop is not None and engine.stop.next_recipe
        if begun and (ending.status == "failed" or asked):
            write_next(plan.folder)
        write_summary(plan.folder, summarise(plan.folder))
        write_report(plan.folder)


def _speaker(world: World, listeners: Sequence[Listener]) -> Callable[[str], None]:
    """Tells the listeners what is being made ready before there is a journal."""

    def say(text: str) -> None:
        if world.is_first:
            for listener in listeners:
                listener({"kind": "note", "step": 0, "text": text})

    return say
