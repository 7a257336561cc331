"""How well a policy drives that learns from a planner in rounds: it drives, the planner labels.

DAgger, Ross et al. 2011 (arXiv:1011.0686).

Each round trains from scratch on all the episodes so far; the last policy plays 200 episodes that nothing was learnt
from. Prints one JSON line a round and one for the result.

    python benchmarks/driving.py --seed 0
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

from danlu.recipe.load import load_recipe
from danlu.stages.collect import Collecting, collect
from danlu.stages.train import train

RECIPE = Path(__file__).parents[1] / "recipes" / "driving.yaml"
TEST_SEED = 1_000_000
SEEDS_A_RUN, SEEDS_A_ROUND = 100_000, 10_000


def rounds(arguments: argparse.Namespace) -> Mapping[str, float]:
    """Plays, trains, and plays again, as often as asked; the metrics of the last policy."""
    folder, started = arguments.out / str(arguments.seed), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    said = {"environment": "highway_env:highway-fast-v0", "planner": "danlu.data.highway_planner:highway_planner"}
    files, driver = [], "planner"
    for at in range(arguments.rounds + 1):
        files.append(folder / f"round-{at}.jsonl")
        how = Collecting(
            episodes=arguments.episodes if at else arguments.first,
            seed=arguments.seed * SEEDS_A_RUN + at * SEEDS_A_ROUND,
            noise=arguments.noise,
            planned=0.0 if at == 0 else arguments.planned,
        )
        played = collect(driver, how, out=files[-1], options=said)
        _say(round=at, driver="planner" if at == 0 else "policy", seconds=time.perf_counter() - started, **played)
        overrides = [f"data.train=[{', '.join(map(str, files))}]", f"seed={arguments.seed}", *arguments.options]
        driver = str(train(load_recipe(RECIPE, overrides), out=folder / f"model-{at}"))
    how = Collecting(episodes=arguments.test, seed=TEST_SEED, labelled=False)
    found = collect(driver, how, out=folder / "test.jsonl")
    return {**found, "seconds": time.perf_counter() - started}


def _say(**found: object) -> None:
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=4, help="rounds in which the policy drives")
    parser.add_argument("--first", type=int, default=300, help="episodes that the planner drives at first")
    parser.add_argument("--episodes", type=int, default=120, help="episodes of each round")
    parser.add_argument("--noise", type=float, default=0.05, help="the share of random actions")
    parser.add_argument("--planned", type=float, default=0.0, help="the share of steps that the planner drives")
    parser.add_argument("--test", type=int, default=200, help="episodes of the last measurement")
    parser.add_argument("--out", type=Path, default=Path("runs/driving-rounds"))
    parser.add_argument("options", nargs="*", help="keys of the recipe: train.budget.epochs=20")
    arguments = parser.parse_args()
    _say(seed=arguments.seed, **rounds(arguments))


if __name__ == "__main__":
    main()
