"""What `danlu tune` costs beyond training: the time of a study less that of its runs, against Optuna by hand.

Both do the same number of runs of the same length with the same sampler, random, in one process. By hand: an Optuna
study in memory whose objective calls `danlu.train`. What each trial and the study as a whole cost is told apart.

    python benchmarks/tune_overhead.py [TRIALS [STEPS]]
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import optuna

import danlu
from danlu.recipe.load import load_recipe
from danlu.recipe.recipe import Recipe
from danlu.stages.tune import tune

RECIPE = """
name: overhead
task: text-generation
data: {{train: {text}, valid: 10%, context: 32, tokenizer: {{train: bpe, size: 300}}, cache: {cache}}}
model: {{design: {{family: llama, layers: 1, width: 32, heads: 2}}}}
train: {{budget: {{steps: {steps}}}, batch: {{tokens: 256}}, micro_batch: 4, precision: fp32, samples: false}}
tune: {{space: {{train.optimizer.lr: log(1e-4, 1e-2)}}, sampler: random, trials: {trials}}}
"""


def main(trials: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        recipe = _recipe(place, trials, steps)
        danlu.train(recipe, out=place / "warm")  # imports, cache and the measurement of the machine
        by_hand = _by_hand(recipe, place, trials)
        started, ends = time.perf_counter(), []
        folder, _ = tune(recipe, out=place / "study", hear=lambda _study, _trial: ends.append(time.perf_counter()))
        whole = time.perf_counter() - started
        told = json.loads((folder / "tune.json").read_text())
        inside = [trial["seconds"] for trial in told["trials"]]
    beyond = (ends[-1] - ends[0] - sum(inside[1:])) / (trials - 1)
    once = whole - sum(inside) - trials * beyond
    print(f"{trials} trials of {steps} steps")
    print(f"  by hand     {by_hand / trials:.3f} s a trial")
    print(f"  danlu tune  {sum(inside) / trials + beyond:.3f} s a trial, {beyond:.3f} s of it outside the run")
    print(f"  once for the study (data, results, report): {once:.3f} s")
    print(f"  for trials of 30 s: {100 * beyond / 30:.2f} %")


def _recipe(place: Path, trials: int, steps: int) -> Recipe:
    lines = [f"the {n % 7} furnace melts {n * n % 13} parts of lead and {n * n * n % 11} of gold" for n in range(600)]
    (place / "words.txt").write_text("\n".join(lines))
    text = RECIPE.format(text=place / "words.txt", cache=place / "cache", steps=steps, trials=trials)
    (place / "overhead.yaml").write_text(text)
    return load_recipe(place / "overhead.yaml")


def _by_hand(recipe: Recipe, place: Path, trials: int) -> float:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        optimizer = recipe.train.optimizer.model_copy(update={"lr": lr})
        run = recipe.model_copy(update={"train": recipe.train.model_copy(update={"optimizer": optimizer})})
        folder = danlu.train(run, out=place / "hand" / str(trial.number))
        return float(json.loads((folder / "summary.json").read_text())["metrics"]["best"]["loss"])

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started = time.perf_counter()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=trials)
    return time.perf_counter() - started


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*(numbers + [8, 20][len(numbers) :]))
