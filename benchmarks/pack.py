"""Useful tokens a second on texts of very different lengths: `python benchmarks/pack.py`.

The same model learns the same texts with transformers' Trainer (texts in random order, padded to the longest of their
batch, as it comes), with danlu padding to length buckets, and with danlu packing. Only tokens of texts count, padding
does not. The lengths are log-normal (median 110 tokens, sigma 1, at most 512), as in collections of instructions. The
runs take turns; printed is the best of the rounds, since on a shared machine others only add time.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import danlu
from danlu.data.cache import encode_cached
from danlu.data.columns import Columns
from danlu.data.packing import cut, pack
from danlu.data.sources import open_source
from danlu.data.text import TextEncoder
from danlu.data.tokenizers import make_tokenizer
from danlu.models.hardware import pick_precision

CONTEXT = 512
BATCH_TOKENS = 2048
CHARACTERS_A_TOKEN = 3.6
DESIGN = {"family": "llama", "layers": 2, "width": 192, "heads": 6, "kv_heads": 3}
WARM_STEPS = 3


def write_texts(path: Path) -> None:
    """Pieces of the standard library with log-normal lengths."""
    rng = np.random.default_rng(0)
    source = open_source("builtin:python-stdlib", cache=path.parent)
    lines = [line for row in source for line in str(row.fields["text"]).splitlines(keepends=True)]
    at = 0
    with path.open("w", encoding="utf-8") as file:
        for wanted in np.exp(rng.normal(np.log(110 * CHARACTERS_A_TOKEN), 1.0, 12_000)):
            text = ""
            while len(text) < min(wanted, 480 * CHARACTERS_A_TOKEN) and at < len(lines):
                text, at = text + lines[at], at + 1
            if text.strip():
                file.write(json.dumps({"text": text}) + "\n")


def with_danlu(folder: Path, packing: str, steps: int, precision: str) -> float:
    recipe = {
        "name": packing,
        "task": "text-generation",
        "data": {
            "train": str(folder / "texts.jsonl"),
            "context": CONTEXT,
            "packing": packing,
            "cache": str(folder / "cache"),
            "tokenizer": {"from": str(folder / "tokenizer")},
        },
        "model": {"design": DESIGN},
        "train": {
            "budget": {"steps": steps},
            "batch": {"tokens": BATCH_TOKENS},
            "optimizer": {"kind": "adamw", "lr": 1e-4},
            "precision": precision,
            "log_every": {"steps": 1},
            "evaluate_every": {"steps": 10 * steps},
            "checkpoint_every": {"steps": 10 * steps},
        },
        "control": "off",
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    danlu.train(danlu.load_recipe(str(folder / "recipe.yaml")), out=out)
    records = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    speeds = [record["values"]["tokens_per_second"] for record in records if record["kind"] == "reading"]
    return statistics.median(speeds[WARM_STEPS:])


class Stopwatch(transformers.TrainerCallback):
    """Tells seconds and useful tokens of each step."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_args: Any, **_more: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *_args: Any, **_more: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)


def with_trainer(folder: Path, rows: list[list[int]], steps: int, precision: str) -> float:
    transformers.set_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        hidden_size=192,
        intermediate_size=512,
        num_attention_heads=6,
        num_key_value_heads=3,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
    )
    watch = Stopwatch()
    plain = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)

    def collate(features: list[dict[str, Any]]) -> Any:
        watch.tokens.append(sum(len(feature["input_ids"]) for feature in features))
        return plain(features)

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=max(1, round(BATCH_TOKENS / (sum(map(len, rows)) / len(rows)))),
        max_steps=steps,
        learning_rate=1e-4,
        bf16=precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=transformers.AutoModelForCausalLM.from_config(config),
        args=arguments,
        train_dataset=[{"input_ids": ids} for ids in rows],
        data_collator=collate,
        callbacks=[watch],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    speeds = [tokens / seconds for tokens, seconds in zip(watch.tokens, watch.seconds, strict=False)]
    return statistics.median(speeds[WARM_STEPS:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    options = parser.parse_args()
    precision = pick_precision(options.precision, "cuda" if torch.cuda.is_available() else "cpu")
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "texts.jsonl")
        source = open_source(str(folder / "texts.jsonl"), cache=folder / "cache")
        texts = (str(row.fields["text"]) for row in source)
        tokenizer = make_tokenizer(None, lambda: texts, key="benchmark", cache=folder / "cache")
        tokenizer.save_pretrained(folder / "tokenizer")
        encoder = TextEncoder(tokenizer, Columns(kind="text", by_role={"text": "text"}), context=CONTEXT)
        pieces = cut(encode_cached(source, encoder, key=encoder.key), CONTEXT)
        rows = [pieces[at]["input_ids"].tolist() for at in range(len(pieces))]
        packed = pack(pieces.examples, CONTEXT, 0)
        mean = pieces.lengths.mean()
        print(f"{len(rows)} texts, {mean:.0f} tokens on average; packed: {len(packed)} rows, {packed.fill:.1%} full\n")
        runs: dict[str, Callable[[], float]] = {
            "Trainer, padded": lambda: with_trainer(folder, rows, options.steps, precision),
            "danlu, buckets": lambda: with_danlu(folder, "pad", options.steps, precision),
            "danlu, packed": lambda: with_danlu(folder, "pack", options.steps, precision),
        }
        best = dict.fromkeys(runs, 0.0)
        for _ in range(options.rounds):
            for label, run in runs.items():
                best[label] = max(best[label], run())
        for label, speed in best.items():
            print(f"{label:18}{speed:10,.0f} useful tokens/s{speed / best['Trainer, padded']:8.2f}x")


if __name__ == "__main__":
    main()
