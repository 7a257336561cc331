"""Run by the test in each of two processes: one step of KTO beside an adapter, each process with its share."""

import json
import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials, constant
from danlu.core.technique import StepContext
from danlu.data.loader import share
from danlu.dist.config import ParallelConfig
from danlu.dist.world import start_world, stop_world
from danlu.dist.wrap import wrap
from danlu.models.forward import Forward
from danlu.tasks.preference import Preference
from danlu.train.stepper import LossModule, Stepper

ROWS = 7


class Verdicts:
    """Random texts of random lengths, with a mismatched one each."""

    fingerprint = "random"

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._parts = draw.integers(4, 9, (ROWS, 2))
        self.lengths = self._parts.sum(1)
        self._ids = [draw.integers(3, 60, length) for length in self.lengths]

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, at: int) -> dict[str, np.ndarray]:
        mask = np.concatenate([np.arange(length) >= 2 for length in self._parts[at]])
        desirable = np.asarray(at % 3 == 0)
        return {"input_ids": self._ids[at], "lengths": self._parts[at], "labels_mask": mask, "desirable": desirable}


def step(strategy: str, micro_rows: int) -> tuple[float, list[float]]:
    """The loss of a second step of plain gradient descent, and some weights after it."""
    world = start_world(ParallelConfig(strategy=strategy), device="cpu")  # type: ignore[arg-type]
    torch.manual_seed(0)
    design = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=64, **design))
    model = get_peft_model(plain, LoraConfig(r=2, lora_alpha=32, target_modules=["q_proj", "down_proj"]))
    task = Preference(objective="kto", beta=2.0).for_model(model)
    batch = share(Verdicts(), np.arange(ROWS), task.collate, world.rank, world.size)
    module = wrap(LossModule(Forward(model), task), ParallelConfig(strategy=strategy), world)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0)
    stepper = Stepper(module, optimizer, (), world=world, precision="fp32", seed=0)
    stepper.micro_cost = micro_rows * int(batch.tokens_B.max())
    dials = Dials([constant("learning_rate", 1.0)])
    ctx = StepContext(clock=Clock(budget=Budget(steps=1)), dials=dials, model=model, seed=0, device=world.device)
    terms = [stepper.step(batch, ctx).terms for _ in range(2)][1]
    weights = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    whole = [weight.full_tensor() if hasattr(weight, "full_tensor") else weight for weight in weights]
    stop_world()
    told = [float(terms[name]) for name in ("loss", "task/reward_desirable", "task/kl")]
    return told[0], told[1:] + torch.cat([weight.detach().flatten() for weight in whole]).tolist()


if __name__ == "__main__":
    strategy, micro_rows = json.loads(sys.argv[1])
    print(json.dumps(step(strategy, micro_rows)))  # noqa: T201
