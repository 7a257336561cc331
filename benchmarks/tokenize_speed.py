"""Tokenising the standard library's source with danlu and with `datasets.map`: `python benchmarks/tokenize_speed.py`.

Both read the same JSONL rows and use the same tokenizer, in turn, in one run; `datasets` starts from rows that it has
converted already, danlu from the file. Printed are the shortest of several runs (on a shared machine others only add
time) and the processor's time, which others disturb less. Then: what a second run costs, and that the cost grows
linearly with the data. (A script called tokenize.py would hide the module of that name from Python.)
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from danlu.data.cache import encode_cached
from danlu.data.columns import Columns
from danlu.data.sources import open_source
from danlu.data.text import TextEncoder
from danlu.data.tokenizers import make_tokenizer

TEXT = Columns(kind="text", by_role={"text": "text"})


def seconds_of(run: Callable[[], int]) -> tuple[float, float, int]:
    """(wall seconds, processor seconds of this process and its children, tokens)"""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    started = time.perf_counter()
    num_tokens = run()
    wall = time.perf_counter() - started
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))
    return wall, cpu, num_tokens


def with_danlu(path: Path, tokenizer: Any, cache: Path, workers: int) -> int:
    encoder = TextEncoder(tokenizer, TEXT, context=512)  # a new one: it remembers no word
    folder = Path(tempfile.mkdtemp(dir=cache))
    return encode_cached(
        open_source(str(path), cache=folder), encoder, key=encoder.key, folder=folder, workers=workers
    ).num_tokens


def with_datasets(data: Any, tokenizer: Any, workers: int) -> int:
    """As the Trainer's own examples do it, with the mask left out; the end token is added as danlu does."""

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer(batch["text"], return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in encoded]}

    mapped = data.map(
        tokenize,
        batched=True,
        remove_columns=data.column_names,
        num_proc=workers if workers > 1 else None,
        load_from_cache_file=False,
    )
    return sum(len(chunk.values) for chunk in mapped.data.column("input_ids").chunks)


def compare(path: Path, tokenizer: Any, cache: Path, repeats: int) -> None:
    data = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache / "datasets"))
    runs: dict[tuple[str, int], Callable[[], int]] = {}
    for workers in (1, os.cpu_count() or 1):
        runs["danlu", workers] = lambda workers=workers: with_danlu(path, tokenizer, cache, workers)
        runs["datasets.map", workers] = lambda workers=workers: with_datasets(data, tokenizer, workers)
    measured: dict[tuple[str, int], list[tuple[float, float, int]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            measured[name].append(seconds_of(run))
    print(f"{'':14}{'processes':>10}{'tokens/s':>12}{'seconds':>9}{'CPU s':>8}")
    best = {}
    for name, times in measured.items():
        wall, cpu = min(entry[0] for entry in times), min(entry[1] for entry in times)
        best[name] = wall, cpu
        print(f"{name[0]:14}{name[1]:10}{times[0][2] / wall:12,.0f}{wall:9.2f}{cpu:8.2f}")
    assert len({times[0][2] for times in measured.values()}) == 1, "both must give the same tokens"
    for workers in sorted({workers for _, workers in runs}):
        (wall, cpu), (other_wall, other_cpu) = best["danlu", workers], best["datasets.map", workers]
        print(f"danlu with {workers}: {other_wall / wall:.2f}x in time, {other_cpu / cpu:.2f}x in processor time")


def second_run(path: Path, tokenizer: Any, cache: Path) -> None:
    def run() -> int:
        encoder = TextEncoder(tokenizer, TEXT, context=512)
        return encode_cached(open_source(str(path), cache=cache), encoder, key=encoder.key).num_tokens

    first, second = seconds_of(run)[0], seconds_of(run)[0]
    print(f"first run {first:.2f} s, second run {second:.3f} s")


def growth(texts: list[str], tokenizer: Any, cache: Path) -> None:
    for times in (1, 4, 16):
        path = cache / f"growth-{times}.jsonl"
        part = texts[: len(texts) * times // 16]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
        _, cpu, num_tokens = min(seconds_of(lambda path=path: with_danlu(path, tokenizer, cache, 1)) for _ in range(2))
        print(f"{times:3}x data: {num_tokens:10,} tokens, {1e6 * cpu / num_tokens:.2f} µs of processor time a token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        source = open_source("builtin:python-stdlib", cache=cache)
        texts = [
            path.read_text(encoding="utf-8") for path in (file.path for file in source.files) if path.stat().st_size
        ]
        tokenizer = make_tokenizer(None, lambda: texts, key="benchmark", cache=cache)
        path = cache / "stdlib.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        print(f"{len(texts)} files, {sum(map(len, texts)) / 1e6:.1f} MB, vocabulary of {len(tokenizer)}\n")
        compare(path, tokenizer, cache, options.repeats)
        print()
        second_run(path, tokenizer, cache)
        print()
        growth(texts, tokenizer, cache)


if __name__ == "__main__":
    main()
