"""What watching costs: steps with all usual probes against steps with none, side by side.

    python benchmarks/probe_cost.py [--steps 100] [--turns 7]

Two sizes of a Llama-like model, each in two engines in one process: one with every usual probe, one without any. They
take turns of `steps` steps, which hold each rare probe at its own pace; the ratio is that of a turn with to the turn
without beside it, and the median over turns is printed. The gate is 2 %. Processor time is compared, since wall time on
a shared machine tells more of the others than of this program.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from danlu.core.clock import Budget, Every
from danlu.core.journal import Journal
from danlu.data.sampler import BatchSize
from danlu.dist.config import ParallelConfig
from danlu.dist.world import World
from danlu.monitor.base import default_probes
from danlu.optim.build import build_optimizer
from danlu.optim.config import OptimizerConfig, ScheduleConfig
from danlu.tasks.base import Prepared
from danlu.tasks.text_generation import TextGeneration
from danlu.train.engine import Engine
from danlu.train.plan import Plan

GATE = 0.02
SIZES = {
    "0.2M": {"width": 64, "layers": 2, "vocab": 512, "context": 64, "rows": 16},
    "4M": {"width": 192, "layers": 6, "vocab": 4096, "context": 128, "rows": 8},
}


class Rows:
    """Random tokens."""

    def __init__(self, count: int, context: int, vocab: int) -> None:
        self.lengths = np.full(count, context)
        self.fingerprint = f"random {count} {context} {vocab}"
        self._tokens = np.random.default_rng(0).integers(3, vocab, (count, context)).astype(np.int32)
        self._places = np.arange(context, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, at: int) -> dict[str, np.ndarray]:
        tokens = self._tokens[at]
        return {"input_ids": tokens, "labels": tokens, "position_ids": self._places, "num_bytes": np.array(len(tokens))}


def engine(size: dict[str, int], folder: Path, *, watched: bool) -> Engine:
    """One with every usual probe, or with none."""
    torch.manual_seed(0)
    width = size["width"]
    config = AutoConfig.for_model(
        "llama",
        hidden_size=width,
        num_hidden_layers=size["layers"],
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        intermediate_size=3 * width,
        vocab_size=size["vocab"],
        max_position_embeddings=size["context"],
        pad_token_id=0,
    )
    rows = Rows(2048, size["context"], size["vocab"])
    optimizer = OptimizerConfig(lr=1e-3)
    plan = Plan(
        name="probe-cost",
        seed=0,
        task=TextGeneration(num_samples=0),
        data=Prepared(train=rows, valid=rows, tools=None, context=size["context"]),
        model=AutoModelForCausalLM.from_config(config),
        make_optimizer=lambda module: build_optimizer(optimizer, module),
        dials=(ScheduleConfig().dial(1e-3),),
        techniques=(),
        probes=default_probes() if watched else (),
        control="off",
        budget=Budget(steps=1_000_000),
        batch=BatchSize(examples=size["rows"]),
        evaluate_every=Every(steps=1_000_000),
        checkpoint_every=Every(steps=1_000_000),
        log_every=Every(steps=10),
        precision="fp32",
        world=World(),
        parallel=ParallelConfig(),
        journal=Journal(folder / f"{watched}.jsonl"),
        folder=folder,
        gemm_rate=1e11,
        micro_batch=size["rows"],
        samples=False,
    )
    return Engine(plan)


def take(engine: Engine, steps: int) -> float:
    """Processor seconds of so many steps, as the loop takes them."""
    started = time.process_time()
    for _ in range(steps):
        began, before, ctx = time.monotonic(), engine.clock, engine.context()
        batch, position, waited = engine.draw()
        engine.probes.before_step(engine.clock)
        result = engine.stepper.step(batch, ctx)
        engine.advance(result, position, seconds=0.0)
        engine.read(before, result, step_seconds=time.monotonic() - began, data_wait_seconds=waited)
    return time.process_time() - started


def measure(name: str, steps: int, turns: int) -> float:
    """The median ratio over the turns, less one; prints it with its quartiles."""
    with tempfile.TemporaryDirectory() as folder:
        bare, watched = (engine(SIZES[name], Path(folder), watched=side) for side in (False, True))
        for side in (bare, watched):
            take(side, 30)  # past the start, where probes look more often
        pairs = []
        for turn in range(turns):
            order = (bare, watched) if turn % 2 == 0 else (watched, bare)
            spent = {id(side): take(side, steps) for side in order}
            pairs.append((spent[id(bare)], spent[id(watched)]))
        for side in (bare, watched):
            side.close()
    ratios = [with_ / without - 1 for without, with_ in pairs]
    low, _, high = statistics.quantiles(ratios, n=4)
    step = 1000 * statistics.median(without for without, _ in pairs) / steps
    middle = statistics.median(ratios)
    print(
        f"{name:>5}: {step:7.2f} ms a step, probes cost {middle:+.2%} (quartiles {low:+.2%} … {high:+.2%})", flush=True
    )
    return middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    costs = [measure(name, options.steps, options.turns) for name in SIZES]
    print(f"gate {GATE:.0%}: {'passed' if max(costs) <= GATE else 'not passed'}")
    raise SystemExit(0 if max(costs) <= GATE else 1)


if __name__ == "__main__":
    main()
