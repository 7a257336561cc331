"""Run by the test in each of some processes: one step of a task that compares rows, each process with its share."""

import json
import sys

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials, constant
from danlu.core.technique import StepContext
from danlu.data.loader import share
from danlu.dist.config import ParallelConfig
from danlu.dist.world import start_world, stop_world
from danlu.dist.wrap import wrap
from danlu.models.forward import Forward
from danlu.tasks.search import Search
from danlu.train.stepper import LossModule, Stepper

ROWS = 7


class Pairs:
    """Random texts of random lengths, and one negative each."""

    fingerprint = "random"

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._lengths = draw.integers(2, 9, (ROWS, 3))
        self._texts = [draw.integers(3, 60, row.sum()) for row in self._lengths]
        self.lengths = self._lengths.sum(1)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, at: int) -> dict[str, np.ndarray]:
        keys, shown = np.arange(3 * at, 3 * at + 3), np.zeros(1, dtype=np.uint8)
        return {"input_ids": self._texts[at], "lengths": self._lengths[at], "keys": keys, "shown": shown}


def step(strategy: str, micro_rows: int) -> tuple[float, list[float]]:
    """The loss, and some weights after one step of plain gradient descent."""
    world = start_world(ParallelConfig(strategy=strategy), device="cpu")  # type: ignore[arg-type]
    torch.manual_seed(0)
    design = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=64, **design)).eval()
    task = Search(symmetric=True).for_model(model)
    data = Pairs()
    batch = share(data, np.arange(ROWS), task.collate, world.rank, world.size)
    module = wrap(LossModule(Forward(model), task), ParallelConfig(strategy=strategy), world)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    stepper = Stepper(module, optimizer, (), world=world, precision="fp32", seed=0)
    stepper.micro_cost = micro_rows * int(batch.tokens_B.max())
    dials = Dials([constant("learning_rate", 0.1)])
    ctx = StepContext(clock=Clock(budget=Budget(steps=1)), dials=dials, model=model, seed=0, device=world.device)
    loss = float(stepper.step(batch, ctx).terms["loss"])
    weights = model.get_input_embeddings().weight
    whole = weights.full_tensor() if hasattr(weights, "full_tensor") else weights
    stop_world()
    return loss, whole.detach().flatten().tolist()


if __name__ == "__main__":
    strategy, micro_rows = json.loads(sys.argv[1])
    print(json.dumps(step(strategy, micro_rows)))  # noqa: T201
