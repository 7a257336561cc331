"""What each action does to a run, at a step boundary, on every process alike."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PreTrainedModel

from danlu.control.policy import Mode
from danlu.core import discover
from danlu.core.action import (
    Action,
    AddWorkers,
    Branch,
    HalveMicroBatch,
    QuarantineData,
    Reinitialise,
    Rollback,
    SetDial,
    SkipStep,
    Stop,
)
from danlu.core.errors import RequestError
from danlu.core.seeds import seed_of
from danlu.core.technique import Technique, in_order
from danlu.dist.state import load_state

if TYPE_CHECKING:
    from danlu.train.engine import Engine

_STANDBY = ("grad_clip", "weight_decay", "label_smoothing")
"""Techniques that `auto` may want to turn on: at their `off` options they are the identity and cost nothing. Dropout is
not among them: it changes the modules, and a model's own dropout is none of its business."""


class RefusedError(Exception):
    """An action cannot be applied to this run; the message says why, for the journal."""


def standby(given: Iterable[Technique], mode: Mode) -> list[Technique]:
    """The techniques that the recipe leaves out and that controllers may want, switched off but with their dials."""
    present, ready = list(given), list[Technique]()
    for name in _STANDBY if mode == "auto" else ():
        cls = discover.find("danlu.techniques", name, Technique)
        technique = cls(**cls.off)  # type: ignore[arg-type]
        try:
            in_order([*present, *ready, technique])
        except RequestError:  # it conflicts with one of the recipe's
            continue
        if all(cls is not type(other) for other in present):
            ready.append(technique)
    return ready


def apply(engine: "Engine", action: Action) -> dict[str, Any]:
    """Does what the action says; returns what the journal should know besides.

    Raises:
        RefusedError: it cannot be done in this run; nothing was changed.
    """
    match action:
        case Stop():
            engine.stop = action
        case SkipStep():
            engine.stepper.skip_next = True
        case SetDial():
            if action.dial not in engine.dials:
                raise RefusedError(f"this run has no dial {action.dial}")
            engine.dials.turn(action, engine.clock)
        case QuarantineData():
            return _quarantine(engine, action)
        case Rollback():
            return {"back_to": _roll_back(engine, action)}
        case Branch():
            from danlu.train.fork import fork

            return {"fork": dataclasses.asdict(fork(engine, action))}
        case Reinitialise():
            _reinitialise(engine, action)
            return {"back_to": 0}
        case HalveMicroBatch():
            engine.stepper.micro_cost = max(1, engine.stepper.micro_cost // 2)
            return {"micro_batch_tokens": engine.stepper.micro_cost}
        case AddWorkers():
            engine.loader.set_workers(action.workers)
        case _:
            raise RefusedError(f"{type(action).__name__} cannot be applied at a step boundary")
    return {}


def _quarantine(engine: "Engine", action: QuarantineData) -> dict[str, Any]:
    ids = frozenset(action.example_ids)
    if action.back:
        engine.quarantined -= ids
        return {}
    if not ids:
        snapshot = engine.watch.good.snapshot
        since = snapshot.step if snapshot else engine.saved_at or 0
        drawn = engine.watch.ids_of(range(since + 1, engine.clock.step + 1))
        ids = frozenset(example for step in drawn.values() for example in step)
    if len(engine.quarantined | ids) > len(engine.loader.sampler) // 2:
        raise RefusedError("more than half of the data would be left out")
    engine.quarantined |= ids
    return {"num_quarantined": len(engine.quarantined)}


def _roll_back(engine: "Engine", action: Rollback) -> int:
    """Goes back to the last good state in memory, else on the disk; returns the step at which it was."""
    snapshot = engine.watch.good.snapshot
    if snapshot is not None:
        load_state(engine.module, engine.optimizer, snapshot.weights())
        engine.rewind(snapshot.run, skip_data=action.skip_data)
        return snapshot.step
    found = engine.checkpoints.best() if action.to == "best" else None
    path = found or engine.checkpoints.newest()
    if path is None:
        raise RefusedError("there is no checkpoint yet, and the model is too large to be kept in memory")
    trees = engine.checkpoints.load(path, {"run": engine.state()})
    load_state(engine.module, engine.optimizer, trees["module"])
    engine.rewind(trees["run"], skip_data=action.skip_data)
    return int(trees["run"]["clock"]["step"])


@torch.no_grad()
def _reinitialise(engine: "Engine", action: Reinitialise) -> None:
    if engine.plan.pretrained:
        raise RefusedError("the weights were trained before, and are worth more than new ones")
    model = cast(PreTrainedModel, engine.model)
    known = dict(model.named_modules())
    named = {name: next((full for full in known if f".{full}".endswith(f".{name}")), None) for name in action.modules}
    missing = [name for name, full in named.items() if full is None]
    if missing:
        raise RefusedError(f"the model has no module {missing[0]}")
    torch.manual_seed(seed_of(engine.plan.seed, "reinitialise", engine.clock.step))
    for part in dict.fromkeys(part for name in named.values() or ("",) for part in known[name or ""].modules()):
        for tensor in (part, *part.parameters(recurse=False), *part.buffers(recurse=False)):
            tensor._is_hf_initialized = False  # type: ignore[union-attr]
        model._init_weights(part)
        for parameter in part.parameters(recurse=False):
            engine.optimizer.state.pop(parameter, None)
