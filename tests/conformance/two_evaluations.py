"""Run by the tests in each of two processes: every task's case evaluated by both together, and by the first alone."""

import importlib
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from danlu.data.loader import batches  # noqa: E402
from danlu.data.sampler import BatchSize  # noqa: E402
from danlu.dist.config import ParallelConfig  # noqa: E402
from danlu.dist.world import World, start_world, stop_world  # noqa: E402
from danlu.models.forward import Forward  # noqa: E402
from danlu.train.evaluation import evaluate  # noqa: E402
from danlu.train.stepper import LossModule  # noqa: E402

names, out = json.loads(sys.argv[1]), Path(sys.argv[2])
together = start_world(ParallelConfig())
os.environ["XDG_CACHE_HOME"] = str(out / f"cache-{together.rank}")
found: dict[str, list[object]] = {}
for task, which in names:
    folder = out / str(together.rank) / task / which
    folder.mkdir(parents=True)
    case = importlib.import_module(f"tests.conformance.cases.{task}").CASES[which](folder)
    module, examples = LossModule(Forward(case.model), case.task), case.prepared.valid
    for world in (together, World()):
        size = BatchSize(examples=3 * world.size)
        rows = batches(examples, case.task.collate, size, rank=world.rank, world_size=world.size)
        measured = evaluate(module, case.task, rows, world=world, precision="fp32")
        found.setdefault(f"{task}-{which}", []).append(measured._asdict())
if together.is_first:
    (out / "found.json").write_text(json.dumps(found))
stop_world()
