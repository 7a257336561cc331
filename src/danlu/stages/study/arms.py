"""Arms: for each technique the recipe with it and the one without; and the runs that they need, each once."""

import copy
import dataclasses
import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path

import torch

import danlu
from danlu.core.errors import RequestError
from danlu.core.technique import Technique
from danlu.data.fingerprints import digest_of
from danlu.recipe.load import read_tree
from danlu.recipe.recipe import Recipe
from danlu.recipe.resolved import given_tree, resolved_yaml
from danlu.recipe.study import StudyConfig

AS_IT_IS = "the recipe as it is"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run that the study needs; `key` is the same for equal runs, in whichever study."""

    key: str
    seed: int
    label: str
    recipe: Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """A technique and its pairs of runs, one a seed: (without, with)."""

    technique: Technique
    in_recipe: bool
    pairs: tuple[tuple[Run, Run], ...]


def arms_of(recipe: Recipe, names: Sequence[str] = ()) -> list[Arm]:
    """What is to be compared with what. `names` choose among the section's techniques or add to them.

    Raises:
        RequestError: there is nothing to measure, no such technique, or one that the recipe cannot be with.
    """
    section = recipe.study or StudyConfig()
    seeds = [recipe.seed + at for at in range(section.seeds)]
    made: dict[tuple[int, str], Run] = {}
    rows: dict[int, list[str]] = {}

    def run(seed: int, techniques: dict[str, object], label: str) -> Run:
        text = repr(sorted(techniques.items()))
        if (seed, text) not in made:
            tree = {**copy.deepcopy(given_tree(recipe)), "seed": seed, "techniques": techniques, "track": []}
            one = read_tree(tree)
            if seed not in rows:  # finding which rows are whose may read files
                rows[seed] = [source.fingerprint for source in one.task.sources(one.data, seed)]
            made[seed, text] = Run(key=_key_of(one, rows[seed]), seed=seed, label=label, recipe=one)
        return made[seed, text]

    own = _written(recipe.techniques)
    arms = []
    for technique in _chosen(recipe, section, names):
        name, given = technique.name(), {**own, **_written([technique])}
        without = {other: options for other, options in own.items() if other != name}
        pairs = []
        for seed in seeds:
            bare = run(seed, without, AS_IT_IS if name not in own else f"without {name}")
            pairs.append((bare, run(seed, given, AS_IT_IS if given == own else f"with {name}")))
        arms.append(Arm(technique=technique, in_recipe=name in own, pairs=tuple(pairs)))
    return arms


def runs_of(arms: Sequence[Arm]) -> list[Run]:
    """Every run once: seed by seed, so that those to be compared are neighbours in time, and each seed begins with
    another, so that none is always first."""
    ordered: list[Run] = []
    for at in range(len(arms[0].pairs)):
        runs = list({run.key: run for arm in arms for run in arm.pairs[at]}.values())
        first = at % len(runs)
        ordered += [*runs[first:], *runs[:first]]
    return ordered


def _key_of(recipe: Recipe, rows: Sequence[str]) -> str:
    """A name for all that decides how a run ends: its recipe, the rows, the weights it starts from, and the code."""
    bare = recipe.model_copy(update={"name": "run", "track": (), "tune": None, "study": None})
    code = [hashlib.blake2b(Path(inspect.getfile(type(t))).read_bytes()).hexdigest() for t in recipe.techniques]
    versions = (danlu.__version__, torch.__version__)
    return digest_of(versions, resolved_yaml(bare), rows, code, _stamps(recipe.model.from_))[:16]


def _stamps(weights: str | None) -> list[object]:
    """Names, sizes and times of change of the files that a model starts from, where they lie here."""
    folder = Path(weights or "").expanduser()
    files = [folder] if folder.is_file() else sorted(folder.rglob("*")) if weights and folder.is_dir() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _chosen(recipe: Recipe, section: StudyConfig, names: Sequence[str]) -> list[Technique]:
    """The techniques with the options of the runs with them: the section's, else the recipe's, else the usual ones."""
    own = {technique.name(): technique for technique in recipe.techniques}
    asked = {technique.name(): technique for technique in section.techniques}
    wanted = [name.replace("-", "_") for name in names] or list(asked) or list(own)
    if not wanted:
        mend = "Name some, as in --techniques dropout,ema"
        raise RequestError("the recipe has no technique to measure", where="techniques", mend=mend)
    found = {}
    for name in wanted:
        if name in asked and (asked[name].model_fields_set or name not in own):
            found[name] = asked[name]
        else:
            found[name] = own.get(name) or _usual(recipe, name)
    return list(found.values())


def _usual(recipe: Recipe, name: str) -> Technique:
    (technique,) = read_tree({**given_tree(recipe), "techniques": {name: True}}).techniques
    return technique


def _written(techniques: Sequence[Technique]) -> dict[str, object]:
    return {t.name(): t.model_dump(mode="json", by_alias=True) or True for t in techniques}
