"""Run folders to make reports of, written through the real Journal."""

import json
import math
import random
from pathlib import Path

from danlu.core.action import SetDial
from danlu.core.finding import Finding
from danlu.core.journal import Journal

RECIPE = """\
name: python-gpt
seed: 0
task: text-generation
data:
  train: builtin:python-stdlib
  valid: 2%
  tokenizer: {train: bpe, size: 8192}
  context: 256
model:
  design: {family: llama, layers: 6, width: 384, heads: 6, kv_heads: 2}
train:
  budget: {minutes: 2}
  batch: {tokens: 8192}
  optimizer: {kind: adamw, lr: 1.0e-3}
techniques:
  weight_decay: {l2: 0.1}
  dropout: {p: 0.1}
"""
PROMPTS = ("def fibonacci(n):", "class Stack:", "import os\n")


def start(journal: Journal, step: int = 0, **fields: object) -> None:
    journal.write(
        "start",
        step,
        danlu="0.1.0",
        name="python-gpt",
        world_size=1,
        device="cpu, 2 cores",
        precision="fp32",
        parameters=12_345_678,
        trainable_parameters=12_345_678,
        micro_batch_tokens=4096,
        train_examples=31_412,
        train_tokens=8_041_472,
        valid_examples=640,
        budget={"minutes": 2},
        **fields,
    )


def reading(journal: Journal, step: int, chance: random.Random, *, spike: bool = False, layers: int = 6) -> None:
    loss = 3.1 + 6.0 * math.exp(-step / 60) + chance.gauss(0, 0.08) + (1.6 if spike else 0)
    values = {
        "loss": loss,
        "grad_norm": (9.0 if spike else 0.9) + 3 * math.exp(-step / 20) + chance.random() * 0.3,
        "learning_rate": 1e-3 * min(1, step / 30) * (0.55 + 0.45 * math.cos(math.pi * min(1, step / 600))),
        "tokens_per_second": 20_000 + chance.gauss(0, 600) - (9000 if step % 50 == 1 else 0),
        "mfu": 0.41 + chance.gauss(0, 0.01),
        "data_wait_seconds": 0.002 + chance.random() * 0.004,
        "memory_bytes": 1.9e9 + min(step, 40) * 5e6,
    }
    for layer in range(layers):
        for part in ("attention", "mlp"):
            values[f"update_ratio/layers.{layer}.{part}"] = 10 ** (-3.2 + layer * 0.15 + chance.gauss(0, 0.12)) * (
                1.4 - step / 600
            )
    journal.write(
        "reading",
        step,
        values=values,
        tokens=step * 8192,
        examples=step * 32,
        epochs=step * 32 / 31_412,
        seconds=step * 0.4,
        progress=step / 600,
    )


def evaluation(journal: Journal, step: int, *, best: bool = True, seconds: float = 1.4) -> None:
    loss = 3.25 + 5.8 * math.exp(-step / 60)
    metrics = {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / math.log(2) / 2.9}
    journal.write("evaluation", step, metrics=metrics, judged="loss", better="lower", best=best, seconds=seconds)


def samples(journal: Journal, step: int) -> None:
    wrote = {
        0: "zq ]] lambdaégrep 〈w Ġ Ġ_x00 return return<script>alert(1)</script> self.self.",
        600: '\n    """Return the n-th item."""\n    if n < 2:\n        return n\n    return self._items[n - 1]\n',
    }
    for prompt in PROMPTS:
        journal.write("sample", step, prompt=prompt, text=wrote[step])


def trouble(journal: Journal, step: int) -> None:
    action = SetDial(dial="learning_rate", kind="scale", number=0.5, because="the loss jumped and did not come back")
    finding = Finding(
        name="loss_spike",
        step=step,
        severity="warning",
        sentence="The loss jumped to 4.9, far above its usual spread. A learning rate that is too high does this.",
        evidence={"loss": 4.91, "usual": 3.3, "z": 9.2},
        suggests=(action,),
    )
    fields = {name: getattr(finding, name) for name in ("name", "severity", "sentence", "evidence")}
    journal.write("finding", step, **fields)
    journal.write("action", step, action={"name": "SetDial", **action.model_dump()}, by="steady_hand")
    journal.write("verdict", step + 50, kept=True, sentence="Fifty steps later the loss is back at 3.2 and steady")


def full(folder: Path, *, status: str = "finished", reason: str = "the budget of 2 minutes is used") -> Path:
    """A run of 600 steps with a spike, a resume, skipped rows and samples."""
    chance = random.Random(0)
    (folder / "model").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8192, "num_hidden_layers": 6}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    journal = Journal(folder / "journal.jsonl")
    start(journal)
    for row in (3, 71):
        place = {"file": "lib/old.py", "row": row, "field": "text", "problem": "is not UTF-8", "mend": "Convert it"}
        journal.write("note", 0, text="a row of the data was skipped", **place)
    evaluation(journal, 0)
    samples(journal, 0)
    for step in range(1, 601):
        reading(journal, step, chance, spike=step in (302, 303))
        if step % 50 == 0:
            evaluation(journal, step)
        if step % 100 == 0:
            journal.write("checkpoint", step, path=f"checkpoints/{step:08d}", best=True, seconds=0.6)
        if step == 303:
            trouble(journal, step)
        if step == 430:
            start(journal, 400, resumed_from=400)
            for again in range(401, 431):
                reading(journal, again, chance)
    samples(journal, 600)
    journal.write("end", 600, status=status, reason=reason, seconds=251.0)
    journal.close()
    return folder


def failed(folder: Path) -> Path:
    """A run whose loss became nan at step 42."""
    chance = random.Random(1)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    journal = Journal(folder / "journal.jsonl")
    start(journal)
    evaluation(journal, 0)
    for step in range(1, 43):
        reading(journal, step, chance)
        if step == 40:
            journal.write("checkpoint", step, path="checkpoints/00000040", best=False, seconds=0.5)
    for step in (43, 44):
        broken = {"loss": math.nan, "grad_norm": math.inf, "learning_rate": 1e-3}
        journal.write("reading", step, values=broken, tokens=step * 8192, seconds=step * 0.4)
    journal.write("finding", 44, name="not_finite", severity="serious", sentence="The loss is nan", evidence={})
    reason = "the loss was not a finite number at step 43; lower train.optimizer.lr or switch on techniques.grad_clip"
    journal.write("end", 44, status="failed", reason=reason, seconds=18.2)
    journal.close()
    return folder


def tiny(folder: Path) -> Path:
    """Two readings, no evaluation, no end."""
    folder.mkdir(parents=True)
    journal = Journal(folder / "journal.jsonl")
    start(journal)
    chance = random.Random(2)
    for step in (1, 2):
        reading(journal, step, chance, layers=2)
    journal.close()
    return folder
