"""Explain: what a recipe will do, before anything starts. It reads and counts; it trains and writes nothing."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from danlu.core.clock import Budget, Clock, Every
from danlu.core.dials import Dial, constant
from danlu.core.technique import in_order
from danlu.core.words import count, duration, size, sparkline
from danlu.data.columns import Columns
from danlu.data.sources import Source
from danlu.recipe.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from danlu.models.estimate import MemoryEstimate

MOMENTS = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)
SPARK_POINTS = 32
SHARE_OF_GEMM = 0.5
"""of the measured GEMM rate that a training step reaches, by experience"""
BYTES_PER_TOKEN = 3.5
"""of text under a vocabulary that is still to be trained"""
SAMPLE_ROWS, SAMPLE_CHARACTERS = 50, 20_000
_SHARDED = ("weights", "gradients", "optimizer")
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What the sections share. Token counts and times are estimates."""

    recipe: Recipe
    processes: int
    device: str
    precision: str
    train: Source
    valid: Source
    kind: str
    columns: Mapping[str, str]
    vocab_size: int
    train_tokens: float
    model: "nn.Module"
    flops_per_token: float
    flops_per_second: float
    rows: int
    memory: "MemoryEstimate"
    free_bytes: float

    @property
    def pictures(self) -> bool:
        """Whether a row is a picture: then what is counted are pictures, not tokens."""
        return self.kind == "image"

    @property
    def unit(self) -> str:
        return "pictures" if self.pictures else "tokens"

    @property
    def tokens_per_step(self) -> float:
        batch = self.recipe.train.batch
        return float(batch.tokens or (batch.examples or 1) * (1 if self.pictures else self.recipe.data.context))

    @property
    def seconds_per_step(self) -> float:
        return self.flops_per_token * self.tokens_per_step / (SHARE_OF_GEMM * self.flops_per_second * self.processes)

    @property
    def num_steps(self) -> int:
        """Until the first limit of the budget."""
        budget, epoch = self.recipe.train.budget, max(1.0, self.train_tokens / self.tokens_per_step)
        limits = (
            budget.steps,
            budget.epochs and budget.epochs * epoch,
            budget.tokens and budget.tokens / self.tokens_per_step,
            budget.minutes and budget.minutes * 60 / self.seconds_per_step,
        )
        return max(1, math.ceil(min(float(limit) for limit in limits if limit)))

    @property
    def needed(self) -> dict[str, int]:
        """Bytes that one process needs, by part."""
        shards = self.processes if self.recipe.parallel.strategy == "fsdp" else 1
        parts = dataclasses.asdict(self.memory)
        return {name: size // shards if name in _SHARDED else size for name, size in parts.items()}

    @property
    def num_epochs(self) -> float:
        return self.num_steps * self.tokens_per_step / self.train_tokens

    def clock(self, progress: float) -> Clock:
        """The moment at which this share of the budget is used."""
        budget = self.recipe.train.budget
        return Clock(
            budget=budget,
            step=round(progress * (budget.steps or self.num_steps)),
            epochs=progress * (budget.epochs or self.num_epochs),
            tokens=round(progress * (budget.tokens or self.num_steps * self.tokens_per_step)),
            seconds=progress * (budget.minutes * 60 if budget.minutes else self.num_steps * self.seconds_per_step),
        )


def explain(recipe: Recipe, *, processes: int = 1) -> Explanation:
    """What `danlu train` would do with this recipe on this machine.

    Raises:
        RequestError: the data, the model or the techniques cannot be had as they are asked for.
    """
    facts = _gather(recipe, processes)
    sections = [make(facts) for make in (_run, _data, _model, _techniques, _dials, _memory, _time)]
    return Explanation(sections=tuple(sections), warnings=tuple(_warnings(facts)))


def _gather(recipe: Recipe, processes: int) -> Facts:
    from danlu.models.build import sketch_model
    from danlu.models.estimate import flops_per_token
    from danlu.models.hardware import describe_device, measure_gemm, pick_device, pick_precision
    from danlu.train.microbatch import available_bytes

    data, device = recipe.data, pick_device()
    train, valid = recipe.task.sources(data, recipe.seed)
    columns = recipe.task.columns(train.peek()[0].fields, data, train.spec)
    pictures, side = columns.kind == "image", getattr(recipe.task, "image_size", None)
    vocab_size, bytes_per_token = (0, _bytes_a_row(train)) if pictures else _tokenizer(recipe, train, columns)
    model = sketch_model(
        recipe.model,
        auto_class=recipe.task.model_class,
        vocab_size=vocab_size or None,
        context=data.context,
        options={"image_size": side} if side and recipe.model.design else None,
    )
    model.requires_grad_(recipe.model.adapter is None)
    precision = pick_precision(recipe.train.precision, device)
    free = available_bytes() / processes if device.type == "cpu" else _device_bytes()
    rows, memory = _micro_batch(recipe, model, precision, free)
    return Facts(
        recipe=recipe,
        processes=processes,
        device=describe_device(device),
        precision=precision,
        train=train,
        valid=valid,
        kind=columns.kind,
        columns=columns.by_role,
        vocab_size=vocab_size,
        train_tokens=max(1.0, _kept_bytes(train) / bytes_per_token),
        model=model,
        flops_per_token=flops_per_token(model, 1 if pictures else data.context),
        flops_per_second=measure_gemm(precision, device),
        rows=rows,
        memory=memory,
        free_bytes=free,
    )


def _bytes_a_row(train: Source) -> float:
    return train.num_bytes / max(1, sum(train.num_rows(file) for file in train.files))


def _tokenizer(recipe: Recipe, train: Source, columns: Columns) -> tuple[int, float]:
    """(size of the vocabulary, bytes a token), the second from a few rows when there is a tokenizer already."""
    from danlu.data.config import DEFAULT_VOCABULARY
    from danlu.data.tokenizers import load_tokenizer

    config = recipe.data.tokenizer
    name = recipe.model.from_ if config is None else config.from_
    if name is None:
        return (config.size if config else DEFAULT_VOCABULARY), BYTES_PER_TOKEN
    tokenizer = load_tokenizer(name)
    rows = train.peek(SAMPLE_ROWS)
    names = list(columns.by_role.values())
    texts = [str(row.fields.get(column, ""))[:SAMPLE_CHARACTERS] for row in rows for column in names]
    num_tokens = sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    return len(tokenizer), sum(len(text.encode()) for text in texts) / max(1, num_tokens)


def _micro_batch(recipe: Recipe, model: "nn.Module", precision: str, free_bytes: float) -> tuple[int, "MemoryEstimate"]:
    """About how many rows will be computed at once, and the memory that goes with it."""
    from danlu.models.estimate import memory_estimate
    from danlu.train.microbatch import CPU_WORKING_BYTES

    names = {technique.name() for technique in recipe.techniques}
    context, batch = recipe.data.context, recipe.train.batch
    if getattr(model, "main_input_name", "") == "pixel_values":
        context = 1

    def estimate(rows: int) -> "MemoryEstimate":
        return memory_estimate(
            model,
            context=context,
            rows=rows,
            precision=precision,
            state_per_weight=recipe.train.optimizer.options().state_per_weight,
            recompute="activation_checkpointing" in names,
        )

    wanted = max(1, batch.examples or (batch.tokens or context) // context)
    per_row = max(1, estimate(2).activations - estimate(1).activations)
    room = min(free_bytes - estimate(0).total, CPU_WORKING_BYTES if free_bytes < math.inf else math.inf)
    rows = recipe.train.micro_batch or max(1, min(wanted, int(room / per_row)))
    return rows, estimate(rows)


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


def _kept_bytes(source: Source) -> float:
    share = source.share
    if share is None:
        return float(source.num_bytes)
    part = share.threshold / 2**64
    return source.num_bytes * (part if share.below else 1.0 - part)


def _files(source: Source) -> str:
    part = _kept_bytes(source) / max(1, source.num_bytes)
    share = "" if source.share is None else f"{part:.1%} of the rows of "
    return f"{share}{len(source.files)} file{'s' if len(source.files) != 1 else ''}, {size(_kept_bytes(source))}"


def _device_bytes() -> float:
    import torch

    return float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else math.inf
