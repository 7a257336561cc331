"""Run by the tests in each of two processes: runs with the techniques and strategies of the request, into files."""

import json
import sys
from pathlib import Path

import torch
from tiny import finish, make_engine

from danlu.core import discover
from danlu.core.technique import Technique
from danlu.dist.config import ParallelConfig
from danlu.dist.world import start_world, stop_world

request = json.loads(sys.argv[1])
world = start_world(ParallelConfig())
for names, strategy, place in request:
    classes = [discover.find("danlu.techniques", name, Technique) for name in names]
    techniques = [cls(**cls.example) for cls in classes]
    folder = Path(place)
    done = finish(make_engine(folder, techniques, kind="sgd", lr=0.1, micro_rows=4, world=world, strategy=strategy))
    if world.is_first:
        torch.save({"weights": done.weights, "exported": done.exported, "losses": done.losses}, folder / "done.pt")
    world.barrier()
stop_world()
