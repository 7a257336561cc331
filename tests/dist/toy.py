"""A tiny language-like model and a run of it, the same on one process and on two: used by tests in real processes.

Run as a script: `toy.py '[{"strategy": "fsdp", "steps": 6, ...}, ...]'`; the first rank prints a JSON list, one object
for each run.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from danlu.dist.config import ParallelConfig
from danlu.dist.state import load_state, state_of
from danlu.dist.world import World, start_world, stop_world
from danlu.dist.wrap import full_weights, gradient_scale, synchronised, wrap
from danlu.train.checkpoint import Checkpoints

VOCAB, WIDTH, ROWS, TOKENS = 11, 6, 8, 5


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 7)
        self.down = nn.Linear(7, WIDTH)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return x_BTD + self.down(torch.tanh(self.up(self.norm(x_BTD))))


class Loss(nn.Module):
    """Embedding tied to the head, two blocks; the loss is a sum over targets, as in danlu."""

    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(0.5))
        if frozen:
            self.layers[0].requires_grad_(False)
            self.embed.requires_grad_(False)

    def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
        x_BTD = self.embed(ids_BT) * self.scale
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        return self.head(x_BTD)

    def forward(self, ids_BT: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits_BTV = self.logits(ids_BT[:, :-1])
        loss = nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="sum")
        return loss, {"loss": loss.detach()}


def batch(step: int) -> torch.Tensor:
    return torch.randint(VOCAB, (ROWS, TOKENS), generator=torch.Generator().manual_seed(step))


def main(requests: list[dict]) -> None:
    world = start_world()
    results = [run(request, world) for request in requests]
    if world.is_first:
        sys.stdout.write(json.dumps(results) + "\n")
    stop_world()


def run(request: dict, world: World) -> dict:
    config = ParallelConfig(strategy=request.get("strategy", "ddp"))
    module = wrap(Loss(frozen=request.get("frozen", False)), config, world)
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.05)
    notes: list[str] = []
    checkpoints = Checkpoints(Path(request["folder"]), world, note=notes.append) if "folder" in request else None
    start = 0
    if request.get("resume"):
        path = checkpoints.newest()
        trees = checkpoints.load(path, like={"average": average(module)})
        load_state(module, optimizer, trees["module"])
        assert all(type(a) is type(b) for a, b in zip(trees["average"].values(), average(module).values(), strict=True))
        start = trees["run"]["step"]
    losses = [step(module, optimizer, world, number) for number in range(start, request["steps"])]
    if "folder" in request and not request.get("resume"):
        trees = {"module": state_of(module, optimizer), "run": {"step": request["steps"]}, "average": average(module)}
        checkpoints.save(request["steps"], trees)
        checkpoints.wait()
    with full_weights(module) as whole, torch.no_grad():
        # A part of the module, on one process alone: what generate does.
        shown = whole.logits(batch(0)).sum().item() if world.is_first else None
        assert not any(isinstance(tensor, DTensor) for tensor in whole.state_dict().values())
    losses.append(step(module, optimizer, world, request["steps"]))
    return {"losses": losses, "shown": shown, "notes": notes}


def average(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() * 2 for name, parameter in module.named_parameters()}


def step(module: nn.Module, optimizer: torch.optim.Optimizer, world: World, number: int) -> float:
    """A global batch of 8 rows: each process takes its share in two micro-batches."""
    rows = batch(number).chunk(world.size)[world.rank]
    targets = ROWS * (TOKENS - 1)
    total = torch.zeros(())
    optimizer.zero_grad()
    for index, micro in enumerate(rows.chunk(2)):
        with synchronised(module, index == 1):
            loss, terms = module(micro)
            (loss * gradient_scale(world) / targets).backward()
        total += terms["loss"]
    optimizer.step()
    return float(world.sum_across(total)) / targets


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
