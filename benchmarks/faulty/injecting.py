"""How faults get into a run without the engine's knowing: through the recipe, the data, the model, the optimiser."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from danlu.core.batch import IGNORED, Batch
from danlu.data.rows import Example
from danlu.data.sampler import Position
from danlu.tasks.base import Prepared
from danlu.train.engine import Engine
from danlu.train.evaluation import Measured
from faulty.tasks import TASKS, TRAIN_ROWS, Part, Tree

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


@dataclasses.dataclass
class Damage:
    """Where the fault struck in this run: what the findings and the actions are held against."""

    task: str
    seed: int
    rng: np.random.Generator
    bad_ids: set[int] = dataclasses.field(default_factory=set)
    layer: str = ""
    from_step: int = 0
    num_rows: int = 0
    on: bool = False

    def notes(self, drawn: Sequence[tuple[int, Sequence[int]]]) -> dict[str, Any]:
        """JSON types: the ids at fault, the layer, the step, and whether each epoch drew every example once."""
        told: dict[str, Any] = {"bad_ids": sorted(self.bad_ids), "layer": self.layer, "from_step": self.from_step}
        told["steps_an_epoch"] = -(-TRAIN_ROWS[self.task] // TASKS[self.task].recipe["train"]["batch"]["examples"])
        if self.num_rows:
            ids = [row for _, rows in drawn for row in rows]
            whole = len(ids) // self.num_rows * self.num_rows
            told["once_an_epoch"] = all(
                len(set(ids[at : at + self.num_rows])) == self.num_rows for at in range(0, whole, self.num_rows)
            )
        return told


def metrics_of(measured: Measured, *, balanced: bool) -> Mapping[str, float]:
    """The metrics; `balanced` makes accuracy the mean recall of the classes."""
    if not balanced:
        return measured.metrics
    table: Any = measured.tables["per_class"]
    recalls = [row[2] for row in table["rows"] if row[4] > 0]
    return {**measured.metrics, "accuracy": sum(recalls) / len(recalls)}


# The recipe


def rate(factor: float) -> Callable[[Tree, str], None]:
    def change(tree: Tree, _task: str) -> None:
        tree["train"]["optimizer"]["lr"] *= factor

    return change


def technique(name: str, **options: float) -> Callable[[Tree, str], None]:
    def change(tree: Tree, _task: str) -> None:
        tree.setdefault("techniques", {})[name] = options

    return change


def batch_of_2(tree: Tree, _task: str) -> None:
    tree["train"]["batch"] = {"examples": 2}


def same_data(tree: Tree, task: str) -> None:
    """The healthy budget in passes over the data, so that a larger batch means fewer steps."""
    train, rows = tree["train"], TRAIN_ROWS[task]
    epochs = train["budget"]["steps"] * train["batch"]["examples"] / rows
    train |= {"budget": {"epochs": epochs}, "log_every": {"steps": 1}}
    train |= {name: {"epochs": epochs / 12} for name in ("evaluate_every", "checkpoint_every")}


def batch_of_half(tree: Tree, task: str) -> None:
    tree["train"]["batch"] = {"examples": TRAIN_ROWS[task] // 2}


def judged_by_loss(tree: Tree, task: str) -> None:
    """Accuracy hardly shows overfitting."""
    if task in ("digits", "circles", "blobs"):
        tree["task"] = tree["task"].model_copy(update={"judge": "loss"})
    elif task == "encoder":
        tree["task"]["judge"] = "loss"


def deep_post_norm(tree: Tree, task: str) -> None:
    """A post-norm Transformer (Xiong et al. 2020) at a rate that it learns well at when warmed up."""
    design = tree["model"]["design"]
    if task == "gpt":
        design |= {"family": "opt", "options": {"do_layer_norm_before": False, "word_embed_proj_dim": design["width"]}}
    design["layers"] = 4
    tree["train"]["schedule"]["warmup"] = "25%"


def no_warmup(tree: Tree, _task: str) -> None:
    tree["train"]["schedule"]["warmup"] = 0


def twenty_sigmoids(tree: Tree, _task: str) -> None:
    tree["model"]["design"] |= {"layers": 20, "activation": "sigmoid"}


# The data


def changed(data: Prepared, rows: Sequence[int] | np.ndarray, change: Any = None) -> Prepared:
    return dataclasses.replace(data, train=Part(data.train, rows, change))


def some(data: Prepared, damage: Damage, share: float) -> set[int]:
    """Picks the rows that the fault strikes."""
    number = len(data.train)
    damage.bad_ids = set(damage.rng.choice(number, round(share * number), replace=False).tolist())
    return damage.bad_ids


def num_classes(data: Prepared) -> int:
    return int(data.facts["num_labels"])


def random_rows(data: Prepared, damage: Damage) -> Prepared:
    """Rows of noise with labels by chance; their values go twice as far as those of real rows."""
    bad, seeds = some(data, damage, 0.05), damage.rng.integers(1 << 31, size=len(data.train))

    def change(at: int, example: Example) -> Example:
        return _noise(example, data, np.random.default_rng(seeds[at])) if at in bad else example

    return changed(data, range(len(data.train)), change)


def _noise(example: Example, data: Prepared, rng: np.random.Generator) -> Example:
    made = dict(example)
    if "pixel_values" in made:
        made["pixel_values"] = rng.uniform(-5, 5, size=made["pixel_values"].shape).astype(np.float32)
    else:
        ids = rng.integers(5, data.vocab_size, size=len(made["input_ids"]))
        made["input_ids"] = ids.astype(made["input_ids"].dtype)
    if "label" in made:
        made["label"] = np.int64(rng.integers(num_classes(data)))
    elif "labels" in made:
        made["labels"] = np.where(made["labels"] == IGNORED, IGNORED, made["input_ids"])
    return made


def noisy_labels(data: Prepared, damage: Damage) -> Prepared:
    """A fifth of the labels become one of the others, each alike."""
    bad, moves = some(data, damage, 0.2), damage.rng.integers(1, num_classes(data), size=len(data.train))

    def change(at: int, example: Example) -> Example:
        if at not in bad:
            return example
        return {**example, "label": np.int64((int(example["label"]) + moves[at]) % num_classes(data))}

    return changed(data, range(len(data.train)), change)


def shuffled_labels(data: Prepared, damage: Damage) -> Prepared:
    other = damage.rng.permutation(len(data.train))

    def change(at: int, example: Example) -> Example:
        return {**example, "label": data.train[int(other[at])]["label"]}

    return changed(data, range(len(data.train)), change)


def rare_classes(data: Prepared, damage: Damage) -> Prepared:
    """Of the upper half of the classes one row in a hundred stays, at least one a class."""
    labels = np.array([int(data.train[at]["label"]) for at in range(len(data.train))])
    kept: list[int] = []
    for label in range(num_classes(data)):
        rows = damage.rng.permutation(np.flatnonzero(labels == label))
        rare = label >= num_classes(data) / 2
        kept += rows[: max(1, len(rows) // 100)].tolist() if rare else rows.tolist()
    return changed(data, sorted(kept))


def twentieth(data: Prepared, damage: Damage) -> Prepared:
    number = len(data.train)
    return changed(data, np.sort(damage.rng.choice(number, max(8, number // 20), replace=False)))


def slow(data: Prepared, damage: Damage) -> Prepared:
    """Reading an example waits for something else, as on a slow disk; a batch of 32 takes 25 ms."""
    seconds = 0.025 / TASKS[damage.task].recipe["train"]["batch"]["examples"]

    def change(_at: int, example: Example) -> Example:
        time.sleep(seconds)
        return example

    return changed(data, range(len(data.train)), change)


def killed(data: Prepared, damage: Damage) -> Prepared:
    """Whoever reads this row first dies of it, in the middle of the run."""
    damage.num_rows = len(data.train)
    fatal = int(damage.rng.integers(len(data.train)))
    damage.layer = f"row {fatal}"
    reads = [0]

    def change(at: int, example: Example) -> Example:
        reads[0] += at == fatal
        if at == fatal and reads[0] == 2:
            raise BrokenExecutor("a data worker was killed (signal 9)")
        return example

    return changed(data, range(len(data.train)), change)


# The model


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks by name."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    name, chosen = max(lists, key=lambda entry: sum(weight.numel() for weight in entry[1].parameters()))
    return [(f"{name}.{at}", block) for at, block in enumerate(chosen)]


def middle(model: nn.Module, damage: Damage) -> nn.Module:
    """The block in the middle; the damage keeps its name."""
    found = blocks(model)
    damage.layer, block = found[len(found) // 2]
    return block


def dead(model: nn.Module, damage: Damage) -> None:
    """The map with the longest bias in the middle block, which an activation follows."""
    biases = [weight for name, weight in middle(model, damage).named_parameters() if name.endswith("bias")]
    nn.init.constant_(max(biases, key=len), -10.0)


@torch.no_grad()
def loud(model: nn.Module, _damage: Damage) -> None:
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.mul_(10.0)


def frozen(model: nn.Module, damage: Damage) -> None:
    middle(model, damage).requires_grad_(False)


def missing(make: MakeOptimizer, damage: Damage) -> MakeOptimizer:
    """The block in the middle is not among what the optimiser changes."""

    def make_without(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = make(model)
        left_out = {id(weight) for weight in middle(model, damage).parameters()}
        for group in optimizer.param_groups:
            keep = [at for at, weight in enumerate(group["params"]) if id(weight) not in left_out]
            for key in ("params", "names"):
                group[key] = [group[key][at] for at in keep]
        return optimizer

    return make_without


# The run


def start_at(engine: Engine, damage: Damage, share: float) -> int:
    """The step at that share of the budget, plus up to a tenth more."""
    steps = engine.plan.budget.steps or 100
    damage.from_step = round(steps * (share + 0.1 * damage.rng.random()))
    return damage.from_step


def nan_gradient(engine: Engine, damage: Damage) -> None:
    """Once, in one weight of the middle block."""
    at = start_at(engine, damage, 0.3)
    weight = next(weight for weight in middle(engine.model, damage).parameters() if weight.requires_grad)

    def spoil(grad: Tensor) -> Tensor:
        if engine.clock.step < at or damage.on:
            return grad
        damage.on = True
        return grad * math.nan

    weight.register_hook(spoil)


def nan_layer(engine: Engine, damage: Damage) -> None:
    """From one step on whatever the middle block gives is NaN, rewound or not."""
    at = start_at(engine, damage, 0.3)

    def spoil(_module: nn.Module, _inputs: object, output: Any) -> Any:
        damage.on = damage.on or engine.clock.step >= at
        if not damage.on:
            return output
        return (output[0] * math.nan, *output[1:]) if isinstance(output, tuple) else output * math.nan

    middle(engine.model, damage).register_forward_hook(spoil)


def out_of_memory(engine: Engine, damage: Damage) -> None:
    """From one step on a forward of more than half the usual rows does not fit."""
    at, most = start_at(engine, damage, 0.3), (engine.plan.batch.examples or 2) // 2

    def refuse(module: nn.Module, args: Any, kwargs: Any) -> None:
        rows = next(iter(kwargs.values())).shape[0]
        if module.training and engine.clock.step >= at and rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    engine.model.register_forward_pre_hook(refuse, with_kwargs=True)


def never_zeroed(engine: Engine, _damage: Damage) -> None:
    engine.optimizer.zero_grad = lambda *_args, **_kwargs: None  # type: ignore[method-assign]


def spoil_batches(engine: Engine, change: Callable[[Position, Batch], Batch]) -> None:
    """What the loader makes goes through `change`, which is told where in the data the batch lies."""
    make = engine.loader._make

    def make_spoilt(position: Position, *how: Any) -> tuple[Batch, Position]:
        batch, after = make(position, *how)
        return change(position, batch), after

    engine.loader._make = make_spoilt  # type: ignore[method-assign]


def places(engine: Engine) -> list[tuple[Position, list[int]]]:
    """Where an undisturbed run stands before each step, and the rows that it draws there."""
    position, found = Position(), []
    for _ in range(engine.plan.budget.steps or 100):
        ids, after = engine.loader.sampler.draw(position, engine.batch_size())
        found.append((position, ids.tolist()))
        position = after
    return found


def thousandfold(engine: Engine, damage: Damage) -> None:
    """Three batches on end are read a thousand times too large, whenever that part of that epoch is read."""
    at = start_at(engine, damage, 0.4)
    struck = places(engine)[at : at + 3]
    bad = {(place.epoch, row) for place, rows in struck for row in rows}
    damage.bad_ids = {row for _, row in bad}

    def change(position: Position, batch: Batch) -> Batch:
        factors_B = torch.tensor([1e3 if (position.epoch, row) in bad else 1.0 for row in batch.example_ids_B.tolist()])
        values = batch.inputs["pixel_values"]
        assert isinstance(values, Tensor)
        return batch.replace(inputs={"pixel_values": values * factors_B.view(-1, *[1] * (values.ndim - 1))})

    spoil_batches(engine, change)


def switch(engine: Engine, damage: Damage) -> None:
    """From one place in the data on everything is drawn from elsewhere: what was one class looks like another."""
    start = places(engine)[start_at(engine, damage, 0.5)][0]
    vocab = engine.plan.data.vocab_size or 1
    other = torch.cat([torch.arange(5), 5 + torch.from_numpy(damage.rng.permutation(max(vocab - 5, 0)))])

    def change(position: Position, batch: Batch) -> Batch:
        if (position.epoch, position.cursor) < (start.epoch, start.cursor):
            return batch
        return _elsewhere(batch, damage.task, other)

    spoil_batches(engine, change)


def _elsewhere(batch: Batch, task: str, other_V: Tensor) -> Batch:
    inputs, labels = dict(batch.inputs), dict(batch.labels)
    if "pixel_values" in inputs:
        values = inputs["pixel_values"]
        assert isinstance(values, Tensor)
        turned = {
            "blobs": lambda: -values,
            "circles": lambda: values * 0.5 / values.square().sum(3, keepdim=True).clamp(min=0.05),
            "digits": lambda: -values.transpose(2, 3),
        }
        inputs["pixel_values"] = turned[task]()
    else:
        inputs["input_ids"] = other_V[inputs["input_ids"]]
        if "tokens" in labels:
            tokens = labels["tokens"]
            assert isinstance(tokens, Tensor)
            labels["tokens"] = torch.where(tokens == IGNORED, tokens, other_V[tokens.clamp(min=0)])
    return batch.replace(inputs=inputs, labels=labels)
