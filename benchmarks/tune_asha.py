"""How soon ASHA has what random search finds: the same space, the same draws, a small GPT on Python source
(asyncio's, which comes with Python).

For each seed random search runs all of its trials to their end. Then ASHA draws at random as well, for at most as many
steps of training in all as random search took. It has caught up when one of its trials has ended with a score at least
as good as random search's best. Cost is counted in steps trained, which a busy machine does not change, and in seconds.
Trial n of a seed has the same values in both, so ASHA can only win by stopping early what is hopeless.

    python benchmarks/tune_asha.py [--seeds 5] [--trials 18] [--steps 81]
"""

import argparse
import asyncio
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.recipe.load import load_recipe
from danlu.stages.tune import read_results, tune

RECIPE = """
name: asha
task: text-generation
data: {{train: {text}, valid: 3%, context: 64, tokenizer: {{train: bpe, size: 512}}}}
model: {{design: {{family: llama, layers: 1, width: 48, heads: 2}}}}
train:
  budget: {{steps: {steps}}}
  batch: {{tokens: 512}}
  micro_batch: 8
  precision: fp32
  optimizer: {{kind: adamw, lr: 1.0e-3}}
  evaluate_every: {{steps: {every}}}
  checkpoint_every: {{seconds: 600}}
  samples: false
tune:
  space:
    train.optimizer.lr: log(1e-5, 1e-1)
    techniques.dropout.p: (0, 0.5)
    techniques.weight_decay.l2: log(1e-3, 1)
  sampler: random
"""


def main(words: argparse.Namespace) -> None:
    shares, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        path, text = Path(name) / "asha.yaml", str(Path(asyncio.__file__).parent / "*.py")
        path.write_text(RECIPE.format(text=text, steps=words.steps, every=max(1, words.steps // 9)))
        for seed in range(words.seeds):
            rows = {}
            for pruner, trials in (("none", words.trials), ("asha", 3 * words.trials)):
                asked = [f"seed={seed}", f"tune.pruner={pruner}", f"tune.trials={trials}"]
                known = rows.get("none", [])
                limit = sum(row["steps"] for row in known) or float("inf")
                rows[pruner] = _search(path, asked, Path(name) / pruner / str(seed), limit, _best(known))
            share = _compare(rows["none"], rows["asha"], seed)
            shares.append(share)
    reached = [share for share in shares if share is not None]
    if reached:
        median = statistics.median(reached)
        print(f"ASHA has random search's best after {median:.0%} of its steps (median); {_all(shares)}")
    print(f"at half the steps or before in {sum(share <= 0.5 for share in reached)} of {len(shares)} seeds")
    print(f"{time.monotonic() - started:.0f} s")


def _search(path: Path, asked: list[str], out: Path, limit: float, goal: float) -> list[dict[str, Any]]:
    """The trials with their steps, in order; it ends when `limit` steps are done, or a trial has the score `goal`."""
    done = 0

    def hear(search: Any, trial: Any) -> None:
        nonlocal done
        done += _steps(search.run_folder(trial.number))
        if done >= limit or (trial.state == "finished" and trial.scores["loss"] <= goal):
            search.config = search.config.model_copy(update={"trials": 1})  # it asks for no further trial

    folder, _ = tune(load_recipe(path, asked), out=out, hear=hear)
    return [{**trial, "steps": _steps(folder / trial["run"])} for trial in read_results(folder)["trials"]]


def _best(trials: list[dict[str, Any]]) -> float:
    return min((trial["scores"]["loss"] for trial in trials if trial["state"] == "finished"), default=-math.inf)


def _steps(folder: Path) -> int:
    return int(json.loads((folder / "summary.json").read_text())["steps"])


def _compare(random: list[dict[str, Any]], asha: list[dict[str, Any]], seed: int) -> float | None:
    """Prints one seed; returns the share of random search's steps after which ASHA has its best score."""
    best = _best(random)
    whole, whole_seconds = _until(random, None)
    first, _ = _until(random, best)
    mine, my_seconds = _until(asha, best)
    pruned = sum(trial["state"] == "pruned" for trial in asha)
    said = f"seed {seed}: random best {best:.4f} after {first} of {whole} steps"
    if mine is None:
        print(f"{said}; ASHA does not have it: {_best(asha):.4f}, {pruned} of {len(asha)} pruned", flush=True)
        return None
    times = f"{my_seconds:.0f} of {whole_seconds:.0f} s"
    print(f"{said}; ASHA after {mine} ({mine / whole:.0%}; {times}), {pruned} of {len(asha)} pruned", flush=True)
    return mine / whole


def _until(trials: list[Mapping[str, Any]], score: float | None) -> tuple[Any, float]:
    """Steps and seconds until a trial has ended with that score or a better one; of all trials where None."""
    steps, seconds = 0, 0.0
    for trial in trials:
        steps, seconds = steps + trial["steps"], seconds + trial["seconds"]
        if score is not None and trial["state"] == "finished" and trial["scores"]["loss"] <= score:
            return steps, seconds
    return (steps if score is None else None), seconds


def _all(shares: list[float | None]) -> str:
    return ", ".join("never" if share is None else f"{share:.0%}" for share in shares)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=18)
    parser.add_argument("--steps", type=int, default=81)
    main(parser.parse_args())
