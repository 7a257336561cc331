"""The five tasks: their recipes, their data, and the number that a run is judged by on test rows of their own."""

import dataclasses
import functools
import json
import math
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from danlu.data.examples import ExampleSet
from danlu.data.rows import Example
from danlu.recipe.recipe import Recipe
from danlu.stages.run_folder import write_atomically
from danlu.tasks.base import Prepared
from faulty.arrays import Arrays

Tree = dict[str, Any]
TRAIN_ROWS: dict[str, int] = {}
"""how many examples each task trains on; filled when they are prepared"""
CACHE = Path(__file__).resolve().parents[2] / ".data" / "faults"
PACKAGES = ("asyncio", "email", "unittest", "xml")
LINES = 5
VALID_ROWS = 256
MODULES = ("argparse", "ast", "configparser", "dataclasses", "difflib", "doctest", "inspect", "ipaddress", "pathlib")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benched:
    """A task: its healthy recipe, and `score`, which is higher where better and chance is that of so many `classes`."""

    name: str
    recipe: Tree
    metric: str
    classes: int

    def score(self, metrics: Mapping[str, float], *, by_loss: bool = False) -> float:
        """The metric, higher made better; no worse than chance, so that a blown-up loss does not flatter a rescue."""
        lost = by_loss or self.metric == "loss"
        value = -metrics.get("loss", math.nan) if lost else metrics.get(self.metric, math.nan)
        chance = -math.log(self.classes) if lost else 1 / self.classes
        return max(value, chance) if math.isfinite(value) else chance


class Part:
    """Some rows of a set, in the order given; `change`, when given, is applied to each (row, example)."""

    def __init__(self, whole: ExampleSet, rows: Sequence[int] | np.ndarray, change: Any = None) -> None:
        self.whole, self.rows, self.change = whole, np.asarray(rows), change
        self.lengths = np.asarray(whole.lengths)[self.rows]
        self.fingerprint = f"{whole.fingerprint}-part-{len(self.rows)}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Example:
        example = self.whole[int(self.rows[at])]
        return example if self.change is None else self.change(at, example)


def _tree(task: Any, data: Tree, design: Tree, *, steps: int, batch: Tree, optimizer: Tree, **train: Any) -> Tree:
    return {
        "name": "fault",
        "task": task,
        "data": {"cache": str(CACHE / "cache"), **data},
        "model": {"design": design},
        "train": {
            "budget": {"steps": steps},
            "batch": batch,
            "optimizer": optimizer,
            "schedule": {"warmup": "10%", "shape": "cosine", "floor": "10%"},
            "precision": "fp32",
            "evaluate_every": {"steps": steps // 12},
            "checkpoint_every": {"steps": steps // 12},
            "log_every": {"steps": 5},
            "samples": False,
            **train,
        },
    }


def _mlp(name: str, optimizer: Tree) -> Benched:
    design = {"family": "small-net", "layers": 3, "width": 32, "activation": "relu"}
    tree = _tree(
        Arrays(), {"train": name}, design, steps=240, batch={"examples": 32}, optimizer=optimizer, micro_batch=256
    )
    return Benched(name=name, recipe=tree, metric="accuracy", classes=2)


def _digits() -> Benched:
    design = {"family": "small-net", "layers": 4, "width": 16, "activation": "relu", "options": {"kernel_size": 3}}
    optimizer = {"kind": "adamw", "lr": 5e-3}
    tree = _tree(
        Arrays(), {"train": "digits"}, design, steps=200, batch={"examples": 32}, optimizer=optimizer, micro_batch=256
    )
    return Benched(name="digits", recipe=tree, metric="accuracy", classes=10)


def _encoder() -> Benched:
    design = {"family": "bert", "layers": 2, "width": 32, "heads": 2, "mlp": 64, "options": {"initializer_range": 0.1}}
    data = {
        **{"train": str(CACHE / "snippets.jsonl"), "valid": "35%", "context": 40},
        "tokenizer": {"train": "bpe", "size": 600},
    }
    task = {"kind": "text-classification", "judge": "accuracy", "num_samples": 0}
    optimizer = {"kind": "adamw", "lr": 5e-3}
    tree = _tree(task, data, design, steps=200, batch={"examples": 32}, optimizer=optimizer, micro_batch=256)
    return Benched(name="encoder", recipe=tree, metric="accuracy", classes=len(PACKAGES))


def _gpt() -> Benched:
    design = {"family": "llama", "layers": 2, "width": 32, "heads": 2, "mlp": 64}
    data = {
        **{"train": str(CACHE / "stdlib.jsonl"), "valid": "15%", "context": 32},
        "tokenizer": {"train": "bpe", "size": 400},
    }
    task = {"kind": "text-generation", "num_samples": 0}
    optimizer = {"kind": "adamw", "lr": 6e-3}
    tree = _tree(task, data, design, steps=200, batch={"examples": 16}, optimizer=optimizer, micro_batch=256)
    return Benched(name="gpt", recipe=tree, metric="loss", classes=400)


TASKS: Mapping[str, Benched] = {
    task.name: task
    for task in (
        _mlp("blobs", {"kind": "sgd", "lr": 0.05, "momentum": 0.9}),
        _mlp("circles", {"kind": "adamw", "lr": 5e-3}),
        _digits(),
        _encoder(),
        _gpt(),
    )
}


def write_texts() -> None:
    """The two text sets, from the standard library: each is written once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    library = Path(sysconfig.get_paths()["stdlib"])
    if not (CACHE / "stdlib.jsonl").exists():
        texts = [(library / f"{name}.py").read_text(encoding="utf-8") for name in MODULES]
        blocks = [{"text": block} for text in texts for block in text.split("\n\n") if block.strip()]
        _write(CACHE / "stdlib.jsonl", blocks)
    if not (CACHE / "snippets.jsonl").exists():
        _write(CACHE / "snippets.jsonl", [row for name in PACKAGES for row in _snippets(library / name, name)])


def _write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def _snippets(folder: Path, label: str, most: int = 900) -> list[dict[str, str]]:
    """Lines of a package's source, a few together, with the package as label; evenly over its files."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        if "test" in path.relative_to(folder).parts or path.name.startswith("test"):
            continue
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if len(line) > 8 and not line.startswith(("#", "import", "from"))]
        found += ["\n".join(lines[at : at + LINES]) for at in range(0, len(lines) - LINES, LINES)]
    kept = np.random.default_rng(5).permutation(len(found))[:most]
    return [{"text": found[at], "label": label} for at in sorted(kept)]


@functools.cache
def prepared(name: str) -> tuple[Prepared, ExampleSet]:
    """The task's data, read once a process: what danlu is given to train and validate on, and test rows apart."""
    write_texts()
    recipe = Recipe.model_validate(TASKS[name].recipe)
    data = recipe.task.prepare(recipe.data, seed=0, base=None, say=lambda _text: None)
    rows = np.random.default_rng(7).permutation(len(data.valid))
    valid, test = Part(data.valid, rows[:VALID_ROWS]), Part(data.valid, rows[VALID_ROWS:])
    TRAIN_ROWS[name] = len(data.train)
    return dataclasses.replace(data, valid=valid), test
