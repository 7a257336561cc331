"""Explain: what a recipe will do, before anything starts. It reads and counts; it trains and writes nothing."""

import dataclasses
from collections.abc import Iterator

from danlu.core.clock import Budget, Every
from danlu.core.dials import Dial, constant
from danlu.core.technique import in_order
from danlu.core.words import count, duration, size, sparkline
from danlu.data.sources import Source
from danlu.recipe.recipe import Recipe
from danlu.stages.explain.facts import SHARE_OF_GEMM, Facts, gather, kept_bytes

MOMENTS = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)
SPARK_POINTS = 32
FEW_STEPS, MANY_EPOCHS = 20, 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """Lines under one title: (what, how it is)."""

    title: str
    lines: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """What will happen, section by section, and what should be thought over first."""

    sections: tuple[Section, ...]
    warnings: tuple[str, ...]


def explain(recipe: Recipe, *, processes: int = 1) -> Explanation:
    """What `danlu train` would do with this recipe on this machine.

    Raises:
        RequestError: the data, the model or the techniques cannot be had as they are asked for.
    """
    facts = gather(recipe, processes)
    sections = [make(facts) for make in (_run, _data, _model, _techniques, _dials, _memory, _time)]
    return Explanation(sections=tuple(sections), warnings=tuple(_warnings(facts)))


def _run(facts: Facts) -> Section:
    recipe = facts.recipe
    shared = f", {recipe.parallel.strategy}" if facts.processes > 1 else ""
    lines = (
        ("name", f"{recipe.name}, seed {recipe.seed}"),
        ("task", recipe.task.kind()),
        ("device", f"{facts.device}; {facts.precision}"),
        ("processes", f"{facts.processes}{shared}"),
        ("control", recipe.control),
        ("tracked by", ", ".join(recipe.track) or "the journal alone"),
    )
    return Section(title="run", lines=lines)


def _data(facts: Facts) -> Section:
    data = facts.recipe.data
    train, valid = facts.train, facts.valid
    columns = ", ".join(f"{role} = {column}" for role, column in facts.columns.items())
    tokenizer = data.tokenizer
    if tokenizer is None or tokenizer.from_:
        origin = "of the model" if tokenizer is None and facts.recipe.model.from_ else "trained: bpe"
        origin = f"from {tokenizer.from_}" if tokenizer else origin
    else:
        origin = f"trained: {tokenizer.train}"
    lines = [
        ("train", f"{train.spec}: {_files(train)}, about {count(facts.train_tokens)} {facts.unit}"),
        ("valid", f"{data.valid}: {_files(valid)}"),
    ]
    if facts.pictures:
        lines.append(("rows", f"{facts.kind} ({columns}); on_bad: {data.on_bad}"))
        return Section(title="data", lines=tuple(lines))
    lines += [
        ("rows", f"{facts.kind} ({columns}); long: {data.long}, packing: {data.packing}, on_bad: {data.on_bad}"),
        ("tokenizer", f"{origin}, {facts.vocab_size} entries"),
        ("context", f"{data.context} tokens"),
    ]
    return Section(title="data", lines=tuple(lines))


def _model(facts: Facts) -> Section:
    from danlu.models.estimate import num_parameters, parameters_by_part

    config = facts.recipe.model
    design = config.design
    name = f"from {config.from_}" if design is None else f"a new {design.family}"
    whole = num_parameters(facts.model)
    parts = [
        (f"  {part}", f"{count(number)} ({number / whole:.0%})")
        for part, number in parameters_by_part(facts.model).items()
    ]
    lines = [("model", f"{name}, {type(facts.model).__name__}"), ("parameters", count(whole)), *parts]
    if config.adapter:
        added = _adapter_parameters(facts)
        about = f"{config.adapter.kind}, rank {config.adapter.r}: about {count(added)} parameters are trained"
        lines.append(("adapter", f"{about}, {'folded in' if config.adapter.merge else 'kept apart'} at the end"))
    return Section(title="model", lines=tuple(lines))


def _adapter_parameters(facts: Facts) -> int:
    """r (in + out) for each matrix that the adapter goes beside (Hu et al. 2021, section 4.1)."""
    adapter = facts.recipe.model.adapter
    assert adapter is not None
    targets = adapter.targets
    return sum(
        adapter.r * sum(weight.shape)
        for name, weight in facts.model.named_parameters()
        if weight.ndim == 2
        and not any(hint in name for hint in ("emb", "wte", "wpe", "lm_head"))
        and (targets == "all-linear" or any(name.removesuffix(".weight").endswith(target) for target in targets))
    )


def _techniques(facts: Facts) -> Section:
    lines = []
    for technique in in_order(facts.recipe.techniques):
        options = ", ".join(f"{name} {value}" for name, value in technique.model_dump().items())
        dials = ", ".join(dial.name for dial in technique.dials())
        slots = " → ".join(technique.slots()) or "no slot"
        lines.append((technique.name(), f"{slots}" + (f"; dial {dials}" if dials else "") + f" ({options})"))
    return Section(title="techniques, in order", lines=tuple(lines) or (("none", ""),))


def _dials(facts: Facts) -> Section:
    train = facts.recipe.train
    own = [dial for technique in facts.recipe.techniques for dial in technique.dials()]
    batch = {f"batch_{unit}": number for unit, number in train.batch.model_dump(exclude_none=True).items()}
    sizes = [constant(name, float(number)) for name, number in batch.items()]
    rate = train.schedule.dial(1.0 if train.optimizer.lr == "find" else train.optimizer.rate)
    if train.optimizer.lr == "find":
        rate = dataclasses.replace(rate, name="learning_rate (× the one found)")
    dials: list[Dial] = [rate, *own, *sizes]
    head = ("over the run", "".join(f"{moment:>10.0%}" for moment in MOMENTS))
    lines = [(dial.name, _row(dial, facts)) for dial in dials]
    return Section(title="dials", lines=(head, *lines))


def _row(dial: Dial, facts: Facts) -> str:
    values = [dial.schedule(facts.clock(moment)) for moment in MOMENTS]
    points = [dial.schedule(facts.clock(point / (SPARK_POINTS - 1))) for point in range(SPARK_POINTS)]
    return "".join(f"{value:>10.4g}" for value in values) + f"  {sparkline(points)}"


def _memory(facts: Facts) -> Section:
    given = "as given" if facts.recipe.train.micro_batch else "a dry run will tell"
    about = f"about {facts.rows} rows of {facts.recipe.data.context} tokens ({given})"
    if facts.pictures:
        about = f"up to {facts.rows} pictures, whose activations are not counted here ({given})"
    lines = [("at once", about), *((name, size(number)) for name, number in facts.needed.items() if number)]
    total = f"{size(sum(facts.needed.values()))}, besides torch itself; {size(facts.free_bytes)} are free for it"
    return Section(title="memory of one process, estimated", lines=(*lines, ("all", total)))


def _time(facts: Facts) -> Section:
    train, total = facts.recipe.train, facts.num_steps * facts.seconds_per_step
    step = f"{count(facts.tokens_per_step)} {facts.unit}, {count(facts.flops_per_token * facts.tokens_per_step)}FLOP"
    rate = f"{facts.flops_per_second / 1e9:,.0f} GFLOP/s measured, {SHARE_OF_GEMM:.0%} of it expected"
    lines = (
        ("budget", f"{_limits(train.budget)}: about {count(facts.num_steps)} step(s)"),
        (
            "a step",
            f"{step}, {facts.seconds_per_step:.2g} s ({rate})",
        ),
        ("the data", f"seen about {facts.num_epochs:.2g} times"),
        ("training", f"about {duration(total)}, evaluations not counted"),
        ("evaluates", f"every {_limits(train.evaluate_every)}, and at the end"),
        ("checkpoints", f"every {_limits(train.checkpoint_every)}, and at the end"),
    )
    return Section(title="time, estimated", lines=lines)


def _warnings(facts: Facts) -> Iterator[str]:
    from danlu.models.estimate import num_parameters

    recipe, train = facts.recipe, facts.recipe.train
    yield from (f"{note[:1].upper()}{note[1:]}." for note in (*facts.train.notes, *facts.valid.notes))
    if not facts.pictures and train.batch.tokens and train.batch.tokens < recipe.data.context * facts.processes:
        need = recipe.data.context * facts.processes
        yield f"train.batch.tokens ({train.batch.tokens}) holds not one whole row a process: {need} or more are better."
    if facts.num_steps < FEW_STEPS:
        yield f"About {facts.num_steps} step(s): too few to learn from. Raise train.budget or shrink train.batch."
    if facts.num_epochs > MANY_EPOCHS:
        yield f"The data is seen about {facts.num_epochs:.0f} times: expect it to be learnt by heart; early_stop helps."
    if not _fires(train.evaluate_every, facts):
        yield "train.evaluate_every is longer than the run: it is evaluated at the end alone."
    if sum(facts.needed.values()) > facts.free_bytes:
        yield "This may not fit in memory. Shorten data.context, shrink the model, or use activation_checkpointing."
    if not facts.pictures and recipe.model.design and num_parameters(facts.model) > 20 * facts.train_tokens:
        yield "The model has over twenty times more parameters than the data has tokens: a smaller one will do."
    lr = train.optimizer.lr
    if recipe.model.adapter is None and recipe.model.from_ and isinstance(lr, float) and lr > 5e-4:
        yield f"A learning rate of {lr:g} is high for weights that are trained already."


def _fires(every: Every, facts: Facts) -> bool:
    return every.due(facts.clock(0.0), facts.clock(1.0))


def _limits(given: Budget | Every) -> str:
    return " or ".join(f"{number:g} {unit}" for unit, number in given.model_dump(exclude_none=True).items())


def _files(source: Source) -> str:
    part = kept_bytes(source) / max(1, source.num_bytes)
    share = "" if source.share is None else f"{part:.1%} of the rows of "
    return f"{share}{len(source.files)} file{'s' if len(source.files) != 1 else ''}, {size(kept_bytes(source))}"
