"""Improve: from a finished run to the next recipe, with a reason for each change."""

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from danlu.core.action import SetDial, read_action
from danlu.core.errors import DanluError, RequestError
from danlu.core.journal import Record, number
from danlu.recipe import document
from danlu.recipe.load import read_tree
from danlu.stages.report.records import RunRecords, load_run, part
from danlu.stages.run_folder import write_atomically

Tree = dict[str, Any]
Kind = Literal["set", "scale"]
DIALS = {
    "learning_rate": "train.optimizer.lr",
    "batch_examples": "train.batch.examples",
    "batch_tokens": "train.batch.tokens",
    "grad_clip": "techniques.grad_clip.norm",
    "weight_decay": "techniques.weight_decay.l2",
    "l1": "techniques.weight_decay.l1",
    "dropout": "techniques.dropout.p",
    "label_smoothing": "techniques.label_smoothing.epsilon",
}
"""dial → the key of the recipe that it starts from"""
FLAT = ("sigmoid", "tanh", "logistic")
"""activations that are flat at their ends"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """A key of the recipe, what it was (None: not given), what it becomes, and why."""

    place: str
    before: object
    after: object
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """A recipe that was tried: its run, its score (the judged metric), and whether it was better than all before."""

    run: Path
    score: float
    kept: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Improved:
    """What `improve` came to: the recipe that it wrote (None: there is nothing to change), and the rounds trained."""

    path: Path | None
    changes: tuple[Change, ...]
    rounds: tuple[Round, ...] = ()


def improve(run: Path, *, rounds: int = 0, say: Callable[[str], None] = lambda text: None) -> Improved:
    """Writes `next.yaml` into the run's folder; with `rounds`, trains it and goes on from it while it gets better.

    A round is trained in `RUN/rounds/NUMBER`. Its recipe is kept only if its best evaluation is better than that of the
    run before; `next.yaml` is the best recipe known, and `improve.json` says how it came to it.

    Raises:
        RequestError: `run` is no run's folder, or has no recipe.
    """
    from danlu.stages.train import train

    known, best = load_run(run), _score(load_run(run))
    changes = write_next(run)
    if not rounds or not changes:
        return Improved(path=run / "next.yaml" if changes else None, changes=changes)
    made: list[Round] = []
    tree, told = _changed(known, changes)
    for count in range(1, rounds + 1):
        folder = run / "rounds" / str(count)
        say(f"round {count}: {', '.join(f'{change.place} = {change.after}' for change in told)}")
        try:
            train(read_tree(tree), out=folder)
        except RequestError:
            raise
        except DanluError as error:  # the round failed: that is its result, and its journal says why
            say(f"round {count}: {error}")
        result = load_run(folder)
        score = _score(result)
        better = score < best
        made.append(Round(run=folder, score=score, kept=better))
        if not better:
            break
        best, text = score, _annotated(tree, told)
        write_atomically(run / "next.yaml", text)
        fresh = changes_for(result.recipe, result)
        if not fresh:
            break
        tree, told = _changed(result, fresh)
    if made and not any(entry.kept for entry in made):
        (run / "next.yaml").unlink(missing_ok=True)
    improved = Improved(
        path=run / "next.yaml" if any(entry.kept for entry in made) else None, changes=changes, rounds=tuple(made)
    )
    write_atomically(run / "improve.json", json.dumps(_plain(improved), indent=2) + "\n")
    return improved


def write_next(run: Path) -> tuple[Change, ...]:
    """Writes `next.yaml`, the run's recipe with what it taught; nothing where nothing is to be changed."""
    known = load_run(run)
    if not known.recipe:
        raise RequestError("this run has no recipe.yaml", where=str(run), mend="Name a run's folder")
    changes = tuple(changes_for(known.recipe, known))
    if changes:
        tree, told = _changed(known, changes)
        write_atomically(run / "next.yaml", _annotated(tree, told))
    return changes


def changes_for(recipe: Mapping[str, object], run: RunRecords) -> list[Change]:
    """What to change in a recipe after its run: what controllers turned and kept first, then what findings ask for.

    The first word on a key stands. Changes that would make the recipe wrong are left out.
    """
    tree: Tree = copy.deepcopy(dict(recipe))
    kept: dict[str, Change] = {}
    for change in (*_turned(tree, run.records), *_asked(tree, run.of("finding"))):
        if change.place in kept or change.after == change.before:
            continue
        tried = copy.deepcopy(tree)
        _put(tried, change.place, change.after)
        try:
            read_tree(tried)
        except RequestError:
            continue
        kept[change.place], tree = change, tried
    return list(kept.values())


def _turned(tree: Tree, records: Iterable[Record]) -> Iterator[Change]:
    """Dials as controllers left them: those that stood at the end of the run."""
    standing: dict[str, tuple[SetDial, str]] = {}
    fork: Record = {}
    for record in records:
        action = part(record, "action")
        if record["kind"] == "verdict" and record.get("action") == "Branch" and record.get("choice") is not None:
            tried = part(fork, "action")["tries"][int(number(record["choice"]))]  # type: ignore[index]
            for turn in tried:
                standing[turn["dial"]] = (SetDial.model_validate(_bare(turn)), str(record["by"]))
        if record["kind"] != "action" or not record.get("applied"):
            continue
        fork = record if action.get("name") == "Branch" else fork
        if action.get("name") == "SetDial":
            turned = read_action(action)
            assert isinstance(turned, SetDial)
            standing.pop(turned.dial, None)
            if turned.number is not None:
                standing[turned.dial] = (turned, str(record["by"]))
    for dial, (turned, by) in standing.items():
        yield from _from_dial(tree, dial, turned, f"{by.replace('_', ' ')} turned it in the run: {turned.because}")


def _bare(turn: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in turn.items() if name != "name"}


def _from_dial(tree: Tree, dial: str, turned: SetDial, reason: str) -> Iterator[Change]:
    if dial == "learning_rate" and turned.begin == 0.0:
        yield _change(tree, "train.schedule.warmup", turned.over, reason)
    if dial == "class_balance":
        yield _change(tree, "task.class_weights", "balanced", reason)
    place = DIALS.get(dial)
    if place is None or turned.number is None:
        return
    before = _get(tree, place)
    if turned.kind == "scale" and isinstance(before, (int, float)) and turned.number != 1.0:
        yield _change(tree, place, _like(before, before * turned.number), reason)
    elif turned.kind == "set":
        yield _change(tree, place, _like(before, turned.number), reason)


def _asked(tree: Tree, findings: Iterable[Record]) -> Iterator[Change]:
    """What each kind of finding asks for; notes ask for nothing."""
    newest = {str(record["name"]): record for record in findings if record.get("severity") != "note"}
    for name, record in newest.items():
        reason = f"{name.replace('_', ' ')}, step {record['step']}"
        for place, after in _remedies(tree, name, record):
            yield _change(tree, place, after, reason)


def _remedies(tree: Tree, name: str, record: Record) -> Iterator[tuple[str, object]]:
    rate, design = _get(tree, "train.optimizer.lr"), _get(tree, "model.design")
    grave = name != "nan_loss" or record.get("severity") == "serious"
    if name in ("divergence", "rate_too_high", "oscillation", "nan_loss") and grave and isinstance(rate, float):
        yield "train.optimizer.lr", _like(rate, rate * 0.3)
        if name == "nan_loss":
            yield "techniques.grad_clip.norm", 1.0
    if name == "rate_too_low" and isinstance(rate, float):
        yield "train.optimizer.lr", _like(rate, rate * 10)
    if name == "exploding_gradients":
        yield "techniques.grad_clip.norm", 1.0
    if name == "bad_initialisation" and isinstance(rate, float):
        yield "train.schedule.warmup", "10%"
    if name in ("vanishing_gradients", "saturated_activations") and isinstance(design, dict):
        yield from _shallower(design)
    if name == "overfitting":
        yield "techniques.weight_decay.l2", max(0.1, 2 * _number(tree, "techniques.weight_decay.l2"))
        yield "techniques.early_stop", {"patience": 3}
    if name == "over_regularised":
        for place in ("techniques.dropout.p", "techniques.weight_decay.l2", "techniques.label_smoothing.epsilon"):
            if _number(tree, place) > 0:
                yield place, min(0.1, _number(tree, place) / 2)
    if name in ("batch_too_small", "batch_too_large"):
        for place in ("train.batch.examples", "train.batch.tokens"):
            if (size := _number(tree, place)) > 0:
                yield place, max(1, round(size * (4 if name == "batch_too_small" else 0.25)))
    if name == "class_imbalance":
        yield "task.class_weights", "balanced"
    if name in ("data_bound", "slow_worker"):
        yield "data.workers", max(2, 2 * round(_number(tree, "data.workers")))
    if name == "memory_bound":
        yield "techniques.activation_checkpointing", True


def _shallower(design: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Activations that are not flat, and no more plain layers than gradients get through."""
    for key, value in (("activation", "relu"), ("hidden_act", "gelu")):
        if design.get(key) in FLAT:
            yield f"model.design.{key}", value
    layers = design.get("layers")
    if isinstance(layers, int) and layers > 8:
        yield "model.design.layers", max(2, layers // 5)


def _change(tree: Tree, place: str, after: object, reason: str) -> Change:
    return Change(place=place, before=_get(tree, place), after=after, reason=reason)


def _changed(run: RunRecords, changes: Iterable[Change]) -> tuple[Tree, list[Change]]:
    tree, told = copy.deepcopy(dict(run.recipe)), list(changes)
    for change in told:
        _put(tree, change.place, change.after)
    return tree, told


def _annotated(tree: Tree, changes: Iterable[Change]) -> str:
    """The recipe as YAML with a comment above each key that was changed."""
    text = document.dump(tree)
    places, lines = document.lines(text), text.splitlines()
    notes: dict[int, str] = {}
    for change in changes:
        at = places[tuple(change.place.split("."))] - 1
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        before = "was not given" if change.before is None else f"was {change.before}"
        notes[at] = f"{indent}# {before}: {' '.join(change.reason.split())}"
    return "\n".join(f"{notes[at]}\n{line}" if at in notes else line for at, line in enumerate(lines)) + "\n"


def _get(tree: Tree, place: str) -> object:
    here: object = tree
    for name in place.split("."):
        here = here.get(name) if isinstance(here, dict) else None
    return here


def _put(tree: Tree, place: str, value: object) -> None:
    *path, last = place.split(".")
    here = tree
    for name in path:
        inside = here.get(name)
        here[name] = here = (
            inside if isinstance(inside, dict) else {"kind": inside} if (name, here) == ("task", tree) else {}
        )
    here[last] = value


def _number(tree: Tree, place: str) -> float:
    value = _get(tree, place)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def _like(before: object, value: float) -> float | int:
    """Three significant digits; whole where it was whole."""
    return max(1, round(value)) if isinstance(before, int) else float(f"{value:.3g}")


def _score(run: RunRecords) -> float:
    """The best of the judged metric, turned so that lower is better; infinite where nothing was evaluated."""
    if not run.best:
        return math.inf
    value = number(part(run.best, "metrics")[run.judged])
    return value if run.best.get("better") == "lower" else -value


def _plain(improved: Improved) -> dict[str, object]:
    return {
        "changes": [dataclasses.asdict(change) for change in improved.changes],
        "rounds": [{**dataclasses.asdict(entry), "run": str(entry.run)} for entry in improved.rounds],
        "next": None if improved.path is None else str(improved.path),
    }
