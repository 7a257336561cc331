"""The fault benchmark: puts faults into runs, lets danlu and others look after them, and says what came of it.

    python benchmarks/faults.py                       every row, 5 seeds, all policies, 150 healthy runs
    python benchmarks/faults.py --quick               every row, 1 seed, danlu alone
    python benchmarks/faults.py --rows 1,4 --tasks digits --seeds 2 --half chosen
    python benchmarks/faults.py --healthy 150         false alarms alone

Thresholds may be chosen on the cells of `--half chosen`; the measures are told for the half that is held out. Needs
scikit-learn and scipy beside danlu. What the rows mean: docs/fault-benchmark.md.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.update(
    OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error"
)

from faulty.faults import FAULTS, Cell, cells
from faulty.measures import Results, alarms
from faulty.report import measures_of, table_of
from faulty.running import Job, Outcome, as_json, run
from faulty.tasks import TASKS, prepared

RIVALS = ("random", "halving", "plateau")


def main() -> None:
    asked = _asked()
    started = time.monotonic()
    chosen = [
        cell
        for cell in cells()
        if (not asked.rows or FAULTS[cell.fault].row in asked.rows)
        and (not asked.faults or cell.fault in asked.faults)
        and (not asked.tasks or cell.task in asked.tasks)
        and asked.half in ("both", "held-out" if cell.held_out else "chosen")
    ]
    jobs = _jobs([] if asked.healthy_only else chosen, asked)
    print(f"{len(chosen)} cells, {len(jobs)} runs, {asked.workers} at a time", flush=True)
    results = Results(_all(jobs, asked))
    if not asked.healthy_only:
        print(table_of(results, chosen, asked.policies))
    told = measures_of(results, chosen, asked.policies)
    print(told.text)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(jobs)} runs in {minutes:.1f} minutes")
    if asked.out:
        whole = {"minutes": minutes, "measures": told.numbers, "outcomes": [as_json(out) for out in results.all]}
        plain = json.loads(json.dumps(whole), parse_constant=lambda _word: None)  # what is not a number is null
        asked.out.write_text(json.dumps(plain, indent=1))


def _asked() -> argparse.Namespace:
    numbers = lambda text: [int(word) for word in text.split(",") if word]  # noqa: E731
    words = lambda text: [word for word in text.split(",") if word]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=numbers, default=[], help="rows of the table, such as 1,4,12")
    parser.add_argument("--faults", type=words, default=[], help=", ".join(FAULTS))
    parser.add_argument("--tasks", type=words, default=[], help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--half", choices=("both", "chosen", "held-out"), default="both")
    parser.add_argument("--policies", type=words, default=["danlu", *RIVALS], help="danlu, random, halving, plateau")
    parser.add_argument("--healthy", type=int, default=None, metavar="N", help="healthy runs, varied; alone: only them")
    parser.add_argument("--quick", action="store_true", help="one seed, danlu alone, 20 healthy runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where to write everything as JSON")
    parser.add_argument("--show", action="store_true", help="findings and actions of every run as it ends")
    asked = parser.parse_args()
    asked.healthy_only = asked.healthy is not None and not (asked.rows or asked.faults)
    narrowed = asked.rows or asked.faults or asked.tasks or asked.half != "both"
    if asked.quick:
        asked.seeds, asked.policies, asked.healthy = 1, ["danlu"], 20
    if asked.healthy is None:
        asked.healthy = 0 if narrowed else 150
    return asked


def _jobs(chosen: Sequence[Cell], asked: argparse.Namespace) -> list[Job]:
    """Every run that is needed, once, those of a task together."""
    jobs: dict[Job, None] = {}
    for seed in range(asked.seeds):
        for cell in chosen:
            fault = FAULTS[cell.fault]
            own = fault.shared_side
            jobs[Job(task=cell.task, seed=seed, fault=cell.fault if own else "", reference=own)] = None
            jobs[Job(task=cell.task, seed=seed, policy="danlu")] = None
            for policy in ("off", *asked.policies):
                jobs[Job(task=cell.task, seed=seed, fault=cell.fault, policy=policy)] = None
    tasks = asked.tasks or list(TASKS)
    for number in range(asked.healthy):
        jobs[Job(task=tasks[number % len(tasks)], seed=number, policy="danlu", variation=number)] = None
    return sorted(jobs, key=lambda job: list(TASKS).index(job.task))


def _all(jobs: Sequence[Job], asked: argparse.Namespace) -> Iterator[Outcome]:
    for task in sorted({job.task for job in jobs}):
        prepared(task)  # once, so that the workers find it made
    with multiprocessing.get_context("spawn").Pool(asked.workers) as pool:
        for number, outcome in enumerate(pool.imap_unordered(run, jobs), 1):
            if asked.show:
                print(_told(outcome), flush=True)
            elif number % 50 == 0:
                print(f"  {number} of {len(jobs)} runs", file=sys.stderr, flush=True)
            yield outcome


def _told(outcome: Outcome) -> str:
    job = {name: value for name, value in dataclasses.asdict(outcome.job).items() if value not in ("", None, False)}
    lines = [
        f"{job} score {outcome.score:.4f} {outcome.status} ({outcome.reason[:120]}), {outcome.steps} steps, "
        f"{outcome.cpu_seconds:.1f} s"
    ]
    loud = {id(finding) for finding in alarms(outcome)}
    events: list[dict[str, Any]] = [*outcome.findings, *outcome.actions, *outcome.verdicts]
    for event in sorted(events, key=lambda event: float(event["time"])):
        told = {
            name: value for name, value in event.items() if name not in ("kind", "step", "time", "sentence", "suggests")
        }
        lines.append(
            f"    {event['step']:>5} {event['kind']}{'!' if id(event) in loud else ''} {json.dumps(told)[:300]}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
