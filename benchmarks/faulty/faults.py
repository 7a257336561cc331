"""The faults: rows of the benchmark's table, the tasks that each is put into, and what must come of it."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from danlu.tasks.base import Prepared
from danlu.train.engine import Engine
from faulty import injecting as put
from faulty.injecting import Damage, MakeOptimizer
from faulty.tasks import Tree

ALL = ("blobs", "circles", "digits", "encoder", "gpt")
CLASSIFIERS = ALL[:4]
MLPS = ALL[:2]
DEEP = ALL[2:]


def _same(value: Any, _damage: Any) -> Any:
    return value


def _nothing(*_args: Any) -> None:
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault at one severity.

    `names` are the findings that name the cause; `signs` those that a run with this fault also rightly shows. `rescue`
    is the R that must be reached; `also` what else must be true (a check in `measures`). `base` and `shared` change the
    healthy side too; an `oracle` reference is the best weights of the faulty run itself; `rounds` allows a corrected
    recipe. `score` says by which metric where it is not the task's own.
    """

    row: int
    name: str
    tasks: tuple[str, ...]
    names: tuple[str, ...]
    signs: tuple[str, ...] = ()
    rescue: float | None = None
    also: Literal["", "whole", "ids", "noise", "layer", "stops", "once", "throughput", "soon", "epoch"] = ""
    base: Callable[[Tree, str], None] = _nothing
    shared: Callable[[Prepared, Damage], Prepared] = _same
    recipe: Callable[[Tree, str], None] = _nothing
    data: Callable[[Prepared, Damage], Prepared] = _same
    model: Callable[[nn.Module, Damage], None] = _nothing
    optimizer: Callable[[MakeOptimizer, Damage], MakeOptimizer] = _same
    engine: Callable[[Engine, Damage], None] = _nothing
    oracle: bool = False
    rounds: bool = False
    score: Literal["own", "loss", "balanced"] = "own"

    @property
    def shared_side(self) -> bool:
        """Whether the healthy side is not simply the task's healthy run."""
        return self.oracle or self.score != "own" or self.base is not _nothing


HIGH = ("rate_too_high", "divergence")
SHAKEN = (
    "loss_spike",
    "oscillation",
    "exploding_gradients",
    "nan_loss",
    "plateau",
    "dead_units",
    "saturated_activations",
)
STILL = ("plateau", "underfitting", "vanishing_gradients")
FIT = ("overfitting",)

_TABLE = (
    Fault(row=1, name="lr_x10", tasks=ALL, names=HIGH, signs=SHAKEN, rescue=0.9, recipe=put.rate(10)),
    Fault(row=1, name="lr_x100", tasks=ALL, names=HIGH, signs=SHAKEN, rescue=0.9, recipe=put.rate(100)),
    Fault(
        **{"row": 2, "name": "lr_div100", "tasks": ALL, "rescue": 0.8, "recipe": put.rate(0.01)},
        names=("rate_too_low",),
        signs=STILL,
    ),
    Fault(
        **{"row": 3, "name": "no_warmup", "tasks": ("encoder", "gpt"), "rescue": 0.9, "base": put.deep_post_norm},
        names=("no_warmup", *HIGH),
        signs=(*SHAKEN, *STILL),
        recipe=put.no_warmup,
    ),
    Fault(
        **{"row": 4, "name": "nan_gradient", "tasks": ALL, "rescue": 0.99, "engine": put.nan_gradient},
        names=("nan_gradient", "nan_loss"),
    ),
    Fault(
        **{"row": 5, "name": "nan_layer", "tasks": ALL, "also": "stops", "engine": put.nan_layer},
        names=("nan_loss", "nan_layer"),
        signs=("nan_gradient",),
    ),
    Fault(
        **{"row": 6, "name": "batches_x1000", "tasks": ALL[:3], "rescue": 0.95, "also": "ids"},
        names=("loss_spike", "bad_examples", "bad_data"),
        signs=(*SHAKEN, *HIGH),
        engine=put.thousandfold,
    ),
    Fault(
        **{"row": 6, "name": "switch", "tasks": ALL, "rescue": 0.8, "engine": put.switch},
        names=("distribution_switch",),
        signs=("loss_spike", "divergence", "overfitting"),
    ),
    Fault(
        **{"row": 7, "name": "random_rows", "tasks": ALL, "rescue": 0.8, "also": "ids", "data": put.random_rows},
        names=("bad_examples", "bad_data"),
        signs=("loss_spike", "label_noise", *FIT),
    ),
    Fault(
        **{"row": 8, "name": "label_noise", "tasks": CLASSIFIERS, "rescue": 0.5, "also": "noise"},
        names=("label_noise",),
        signs=("bad_examples", *FIT),
        data=put.noisy_labels,
    ),
    Fault(
        **{"row": 9, "name": "imbalance", "tasks": ("blobs", "digits", "encoder"), "rescue": 0.5, "score": "balanced"},
        names=("class_imbalance",),
        signs=FIT,
        data=put.rare_classes,
    ),
    Fault(
        **{"row": 10, "name": "small_data", "tasks": ("circles", "digits", "encoder"), "rescue": 0.8, "score": "loss"},
        names=FIT,
        base=put.judged_by_loss,
        shared=put.twentieth,
        oracle=True,
    ),
    Fault(
        **{"row": 11, "name": "dropout_80", "tasks": ("circles", *DEEP), "rescue": 0.8},
        names=("over_regularised",),
        signs=STILL,
        recipe=put.technique("dropout", p=0.8),
    ),
    Fault(
        **{"row": 11, "name": "decay_10", "tasks": ("circles", *DEEP), "rescue": 0.8},
        names=("over_regularised",),
        signs=STILL,
        recipe=put.technique("weight_decay", l2=10.0),
    ),
    Fault(
        **{"row": 12, "name": "dead_layer", "tasks": (*MLPS, "digits", "encoder"), "rescue": 0.9, "also": "layer"},
        names=("dead_units",),
        signs=(*STILL, "frozen_parameters"),
        model=put.dead,
    ),
    Fault(
        **{"row": 13, "name": "sigmoid_20", "tasks": MLPS, "rescue": 0.9, "rounds": True},
        names=("vanishing_gradients", "saturated_activations"),
        signs=STILL,
        recipe=put.twenty_sigmoids,
    ),
    Fault(
        **{"row": 14, "name": "init_x10", "tasks": ALL, "rescue": 0.9, "model": put.loud},
        names=("exploding_gradients", "saturated_activations", "bad_initialisation"),
        signs=(*SHAKEN, *HIGH, *FIT),
    ),
    Fault(
        **{"row": 15, "name": "batch_2", "tasks": ALL, "rescue": 0.8, "recipe": put.batch_of_2},
        names=("batch_too_small",),
        signs=("oscillation", "loss_spike"),
    ),
    Fault(
        **{"row": 16, "name": "batch_half", "tasks": ALL, "rescue": 0.8, "base": put.same_data},
        names=("batch_too_large",),
        signs=("underfitting",),
        recipe=put.batch_of_half,
    ),
    Fault(
        **{"row": 17, "name": "slow_worker", "tasks": ("circles", "digits"), "also": "throughput", "data": put.slow},
        names=("slow_worker", "data_bound"),
    ),
    Fault(
        **{"row": 18, "name": "killed_worker", "tasks": ("circles", "digits"), "also": "once", "data": put.killed},
        names=("worker_killed",),
    ),
    Fault(
        **{"row": 19, "name": "out_of_memory", "tasks": DEEP, "also": "whole", "engine": put.out_of_memory},
        names=("memory_bound", "out_of_memory"),
    ),
    Fault(
        **{"row": 20, "name": "frozen", "tasks": ALL, "also": "soon", "model": put.frozen},
        names=("frozen_parameters",),
        signs=STILL,
    ),
    Fault(
        **{"row": 20, "name": "missing", "tasks": ALL, "also": "soon", "optimizer": put.missing},
        names=("frozen_parameters", "missing_parameters"),
        signs=STILL,
    ),
    Fault(
        **{"row": 20, "name": "never_zeroed", "tasks": ALL, "also": "soon", "engine": put.never_zeroed},
        names=("gradients_not_zeroed",),
        signs=(*SHAKEN, *HIGH),
    ),
    Fault(
        **{"row": 20, "name": "shuffled_labels", "tasks": CLASSIFIERS, "also": "epoch", "data": put.shuffled_labels},
        names=("shuffled_labels",),
        signs=("label_noise", *FIT, *STILL),
    ),
)
FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _TABLE}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A fault in a task. Half of all cells, by hash, are held out: no threshold may be chosen on them."""

    task: str
    fault: str

    @property
    def held_out(self) -> bool:
        return hashlib.sha256(f"{self.task}/{self.fault}".encode()).digest()[0] % 2 == 1


def cells() -> list[Cell]:
    return [Cell(task, fault.name) for fault in _TABLE for task in fault.tasks]
