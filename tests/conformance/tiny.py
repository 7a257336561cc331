"""A whole run in a second: a small decoder on made-up rows, through the real engine."""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageClassification, PreTrainedModel

from danlu.core.clock import Budget, Every
from danlu.core.journal import Journal
from danlu.core.technique import Technique
from danlu.data.sampler import BatchSize
from danlu.dist.config import ParallelConfig
from danlu.dist.world import World
from danlu.monitor.base import default_probes
from danlu.optim.build import build_optimizer
from danlu.optim.config import OptimizerConfig, ScheduleConfig
from danlu.tasks.base import Prepared
from danlu.tasks.image_classification import ImageClassification
from danlu.tasks.text_generation import TextGeneration
from danlu.train.engine import Engine
from danlu.train.interrupts import Interrupts
from danlu.train.loop import Ending, train
from danlu.train.plan import Plan

VOCAB, CONTEXT, STEPS, SIDE = 64, 16, 8, 12


class Rows:
    """Rows of tokens of different lengths, a third of their targets masked."""

    def __init__(self, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.lengths = random.integers(6, CONTEXT + 1, count)
        self.fingerprint = f"{count} {seed}"
        self._rows = [self._row(int(length), random) for length in self.lengths]

    def _row(self, length: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        tokens = random.integers(3, VOCAB, length).astype(np.int32)
        labels = np.where(random.random(length) < 1 / 3, -100, tokens).astype(np.int32)
        places = np.arange(length, dtype=np.int32)
        if random.random() < 1 / 3:  # two documents in a row
            places[length // 2 :] -= length // 2
        return {"input_ids": tokens, "labels": labels, "position_ids": places, "num_bytes": np.array(length)}

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> np.ndarray:
        """Three classes of unequal size, two sources."""
        at = np.arange(len(self))
        return np.minimum(at % 7, 2) if name == "label" else np.minimum(at % 4, 1)

    def __getitem__(self, at: int) -> dict[str, np.ndarray]:
        return self._rows[at]


class Pictures:
    """Pictures of noise in three classes."""

    def __init__(self, count: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.lengths = np.ones(count, dtype=np.int64)
        self.fingerprint = f"pictures {count} {seed}"
        self._pixels = draw.normal(0, 1, (count, 3, SIDE, SIDE)).astype(np.float32)
        self._labels = draw.integers(0, 3, count)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, at: int) -> dict[str, np.ndarray]:
        return {"pixel_values": self._pixels[at], "label": np.asarray(self._labels[at])}


@functools.cache
def _fresh_for_pictures() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    scale = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    config = AutoConfig.for_model("vit", image_size=SIDE, patch_size=4, num_labels=3, **sizes, **scale)
    return AutoModelForImageClassification.from_config(config)


@functools.cache
def _fresh() -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        vocab_size=VOCAB,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """What a run came to: the weights to train on with, those to use, and how it ended."""

    weights: dict[str, Tensor]
    exported: dict[str, Tensor]
    losses: list[float]
    ending: Ending
    engine: Engine


def make_engine(
    folder: Path,
    techniques: Sequence[Technique],
    *,
    kind: str = "adamw",
    lr: float = 1e-2,
    micro_rows: int = 8,
    steps: int = STEPS,
    world: World | None = None,
    strategy: str = "ddp",
    control: str = "auto",
    pictures: bool = False,
) -> Engine:
    """An engine over 48 rows in batches of 8, that evaluates every second step and saves every fourth."""
    world = world or World()
    kind_of_rows = Pictures if pictures else Rows
    prepared = Prepared(
        train=kind_of_rows(48, 1), valid=kind_of_rows(12, 2), tools=None, context=CONTEXT, padded=not pictures
    )
    task = ImageClassification(num_samples=0, labels=("a", "b", "c")) if pictures else TextGeneration(num_samples=0)
    optimizer = OptimizerConfig(kind=kind, lr=lr)
    plan = Plan(
        name="tiny",
        seed=0,
        task=task,
        data=prepared,
        model=copy.deepcopy(_fresh_for_pictures() if pictures else _fresh()),
        make_optimizer=lambda module: build_optimizer(optimizer, module),
        dials=(ScheduleConfig(warmup=2).dial(lr),),
        techniques=techniques,
        probes=default_probes(),
        control=control,
        budget=Budget(steps=steps),
        batch=BatchSize(examples=8),
        evaluate_every=Every(steps=2),
        checkpoint_every=Every(steps=4),
        log_every=Every(steps=2),
        precision="fp32",
        world=world,
        parallel=ParallelConfig(strategy=strategy),
        journal=Journal(folder / "journal.jsonl" if world.is_first else None),
        folder=folder,
        gemm_rate=1e11,
        micro_batch=micro_rows,
        samples=False,
    )
    engine = Engine(plan)
    engine.checkpoints.keep = steps
    return engine


def finish(engine: Engine) -> Done:
    """Runs an engine to its end."""
    losses: list[float] = []
    engine.journal.subscribe(
        lambda record: losses.append(record["values"]["loss"]) if record["kind"] == "reading" else None
    )
    ending = train(engine, Interrupts())
    weights = whole(engine)
    with engine.weights_to_use():
        exported = whole(engine)
    engine.checkpoints.wait()
    engine.loader.close()
    engine.journal.close()
    return Done(weights=weights, exported=exported, losses=losses, ending=ending, engine=engine)


def whole(engine: Engine) -> dict[str, Tensor]:
    """A copy of the model's weights, gathered where they are sharded."""
    found = {}
    for name, parameter in engine.model.named_parameters():
        tensor = parameter.detach()
        found[name] = (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()
    return found


def farthest(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert one.keys() == two.keys()
    return max(float((one[name].detach() - two[name].detach()).abs().max()) for name in one)
