"""What explain rests on: the data, the model and the machine, read and counted; tokens and times are estimates."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from danlu.core.clock import Clock
from danlu.data.columns import Columns
from danlu.data.sources import Source
from danlu.recipe.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from danlu.models.estimate import MemoryEstimate

SHARE_OF_GEMM = 0.5
"""of the measured GEMM rate that a training step reaches, by experience"""
BYTES_PER_TOKEN = 3.5
"""of text under a vocabulary that is still to be trained"""
SAMPLE_ROWS, SAMPLE_CHARACTERS = 50, 20_000
_SHARDED = ("weights", "gradients", "optimizer")


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


def gather(recipe: Recipe, processes: int) -> Facts:
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
        train_tokens=max(1.0, kept_bytes(train) / bytes_per_token),
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


def kept_bytes(source: Source) -> float:
    share = source.share
    if share is None:
        return float(source.num_bytes)
    part = share.threshold / 2**64
    return source.num_bytes * (part if share.below else 1.0 - part)


def _device_bytes() -> float:
    import torch

    return float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else math.inf
