"""What a search costs beyond training: danlu tune, Optuna by hand and Ray Tune, side by side, in one run.

All three do the same number of trials of the same recipe, one at a time, with values drawn at random; each trial is one
call of `danlu.train`, whose beginning and end are noted. What lies between the end of one and the beginning of the next
is what the search costs for each trial; what lies before the first and after the last is paid once. The time in
`danlu.train` outside of its loop (data, model, export, report) is the same for all and told apart.

By hand: a study in memory whose objective calls `danlu.train`. Ray Tune is optional: without ray in this Python, say
which has it, with danlu and torch beside it.

    python benchmarks/tune_overhead.py [--trials 8] [--steps 20] [--ray PYTHON]
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import optuna

import danlu
from danlu.recipe.load import load_recipe
from danlu.recipe.recipe import Recipe

SECONDS = 30.0
"""of a trial that the cost is compared with"""
RECIPE = """
name: overhead
task: text-generation
data: {{train: {place}/words.txt, valid: 10%, context: 32, tokenizer: {{train: bpe, size: 300}}, cache: {place}/cache}}
model: {{design: {{family: llama, layers: 1, width: 32, heads: 2}}}}
train: {{budget: {{steps: {steps}}}, batch: {{tokens: 256}}, micro_batch: 4, precision: fp32, samples: false}}
tune: {{space: {{train.optimizer.lr: log(1e-4, 1e-2)}}, sampler: random, trials: {trials}}}
"""


def main(words: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        recipe = _recipe(place, words.trials, words.steps)
        danlu.train(recipe, out=place / "warm")  # imports, cache and the measurement of the machine
        sides: dict[str, Callable[[], None]] = {
            "danlu tune": lambda: _danlu(recipe, place),
            "Optuna by hand": lambda: _by_hand(place, words.trials),
        }
        missing = _why_no_ray(words.ray)
        if missing is None:
            sides["Ray Tune"] = lambda: _ray_elsewhere(words.ray, place, words.trials)
        print(f"{words.trials} trials of {words.steps} steps, one at a time")
        for side, run in sides.items():
            (place / "marks.jsonl").unlink(missing_ok=True)
            began = time.time()
            run()
            _tell(side, place, began, time.time())
        if missing:
            print(f"  Ray Tune        not measured: {missing}")


def _tell(side: str, place: Path, began: float, ended: float) -> None:
    marks = [json.loads(line) for line in (place / "marks.jsonl").read_text().splitlines()]
    gaps = [after["start"] - before["end"] for before, after in itertools.pairwise(marks)]
    busy = [after["start_cpu"] - before["end_cpu"] for before, after in itertools.pairwise(marks)]
    same = len({mark["process"] for mark in marks}) == 1
    once = marks[0]["start"] - began + ended - marks[-1]["end"]
    around = statistics.median(mark["end"] - mark["start"] - mark["loop"] for mark in marks)
    cost, share = statistics.median(gaps), 100 * statistics.median(gaps) / SECONDS
    cpu = f", of which the CPU {statistics.median(busy):.3f} s" if same else ""
    print(f"  {side:<15} {cost:.3f} s a trial{cpu}: {share:.2f} % of {SECONDS:.0f} s; once for all {once:.2f} s")
    share = 100 * around / SECONDS
    print(f"  {'':<15} in danlu.train, outside of its loop: {around:.3f} s ({share:.2f} %)", flush=True)


def timed(recipe: Recipe, *, place: Path, out: Path, **more: object) -> Path:
    """`danlu.train`, with a line about when it began and ended."""
    start, start_cpu = time.time(), time.process_time()
    folder = danlu.train(recipe, out=out, **more)
    end, end_cpu = time.time(), time.process_time()
    loop = json.loads((folder / "summary.json").read_text())["speed"]["seconds"]
    mark = {"start": start, "end": end, "start_cpu": start_cpu, "end_cpu": end_cpu, "loop": loop}
    with (place / "marks.jsonl").open("a") as file:
        file.write(json.dumps({**mark, "process": os.getpid()}) + "\n")
    return folder


def _trial(place: Path, name: str, lr: float) -> float:
    recipe = load_recipe(place / "overhead.yaml", [f"train.optimizer.lr={lr!r}"])
    folder = timed(recipe, place=place, out=place / name)
    return float(json.loads((folder / "summary.json").read_text())["metrics"]["best"]["loss"])


def _danlu(recipe: Recipe, place: Path) -> None:
    from danlu.stages import workers
    from danlu.stages.tune import tune

    workers.train = lambda asked, **more: timed(asked, place=place, **more)
    tune(recipe, out=place / "danlu")


def _by_hand(place: Path, trials: int) -> None:
    def objective(trial: optuna.Trial) -> float:
        return _trial(place, f"hand{trial.number}", trial.suggest_float("lr", 1e-4, 1e-2, log=True))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).optimize(objective, n_trials=trials)


def _why_no_ray(python: str) -> str | None:
    if python == sys.executable:
        found = importlib.util.find_spec("ray") is not None
    else:
        found = subprocess.run([python, "-c", "import ray.tune"], capture_output=True, check=False).returncode == 0
    return None if found else f"{python} has no ray (pip install 'ray[tune]', or --ray PYTHON)"


def _ray_elsewhere(python: str, place: Path, trials: int) -> None:
    """Ray starts processes of its own, and need not be installed where danlu is."""
    done = subprocess.run(
        [python, __file__, "--in-ray", str(place), "--trials", str(trials)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"Ray Tune failed:\n{done.stderr[-3000:]}")


def _in_ray(place: Path, trials: int) -> None:
    # Ray's workers give way to all others unless told not to; the other sides do not
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AIR_NEW_OUTPUT="0", RAY_worker_niceness="0")
    import ray
    from ray import tune

    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)

    def objective(config: dict[str, float]) -> dict[str, float]:
        return {"loss": _trial(place, f"ray{time.time_ns()}", config["lr"])}

    tuner = tune.Tuner(
        objective,
        param_space={"lr": tune.loguniform(1e-4, 1e-2)},
        tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=trials, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(place / "ray"), verbose=0),
    )
    failed = tuner.fit().num_errors
    ray.shutdown()
    if failed:
        raise RuntimeError(f"{failed} trials failed in Ray Tune")


def _recipe(place: Path, trials: int, steps: int) -> Recipe:
    lines = [f"the {n % 7} furnace melts {n * n % 13} parts of lead and {n * n * n % 11} of gold" for n in range(600)]
    (place / "words.txt").write_text("\n".join(lines))
    (place / "overhead.yaml").write_text(RECIPE.format(place=place, steps=steps, trials=trials))
    return load_recipe(place / "overhead.yaml")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ray", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--in-ray", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_ray:
        _in_ray(given.in_ray, given.trials)
    else:
        main(given)
