"""What the benchmarks share: child processes that take turns, the same model and tokens for all sides, and tables.

A side is a process of its own. It trains until it has done what it was allowed, says how long that took, and sleeps
until it may go on; so all sides are measured in one run, one at a time, each with its state kept. On a shared machine
others only add time: compare within one turn, over several turns.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MARK = "@@"
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# libgomp's own defaults, given in words, so that no setting of this machine favours a side
SAME_FOR_ALL = {
    "OMP_NUM_THREADS": str(THREADS),
    "OMP_WAIT_POLICY": "ACTIVE",
    "GOMP_SPINCOUNT": "300000",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
}
ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "DANLU_KERNELS")


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: as it is here, equal for all sides, and without allocator settings unless given.

    BENCHMARK_THREADS gives every side fewer threads than there are cores, for a machine that has other work.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    threads = {"OMP_NUM_THREADS": os.environ["BENCHMARK_THREADS"]} if "BENCHMARK_THREADS" in os.environ else {}
    return {**kept, **SAME_FOR_ALL, **threads, **(more or {})}


class Child:
    """A side: `python SCRIPT --child REQUEST` in a process of its own."""

    def __init__(self, script: str, request: dict[str, Any], more: dict[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in `end`)
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, script, "--child", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(more),
        )

    def hear(self) -> dict[str, Any]:
        """The next report; `at` is when it came, in seconds since the start."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return {**json.loads(line.removeprefix(MARK)), "at": time.monotonic() - self.started}
        self._process.wait()
        self._log.seek(0)
        raise RuntimeError(f"a side ended with {self._process.returncode}:\n{self._log.read()[-3000:]}")

    def turn(self) -> dict[str, Any]:
        """Lets it go on, and waits for its report."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


class Turns:
    """In a child: reports after the first step and after every block, and waits for leave to go on."""

    def __init__(self) -> None:
        self._since, self._cpu, self._tokens = time.perf_counter(), time.process_time(), 0

    def done(self, tokens: int, **more: Any) -> None:
        """`tokens` is the total so far. The time is that since the last leave to go on."""
        seconds, cpu_seconds = time.perf_counter() - self._since, time.process_time() - self._cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        report(seconds=seconds, cpu_seconds=cpu_seconds, tokens=tokens - self._tokens, peak_bytes=peak, **more)
        if not sys.stdin.readline():
            os._exit(0)
        self._since, self._cpu, self._tokens = time.perf_counter(), time.process_time(), tokens


def report(**facts: Any) -> None:
    """A line for the parent."""
    sys.stdout.write(f"\n{MARK}{json.dumps(facts)}\n")
    sys.stdout.flush()


def request_of(words: Sequence[str]) -> dict[str, Any] | None:
    """What a child is asked for; None in the parent."""
    found: dict[str, Any] | None = json.loads(words[1]) if len(words) == 2 and words[0] == "--child" else None
    return found


def range_of(values: Sequence[float], form: Callable[[float], str] = "{:.2f}".format) -> str:
    """median (min-max)"""
    ordered = sorted(values)
    return f"{form(ordered[len(ordered) // 2])} ({form(ordered[0])}-{form(ordered[-1])})"


def prepare(folder: Path, *, context: int, model: dict[str, Any]) -> dict[str, Any]:
    """In a child: a Llama with new weights and a tokenizer in `folder`, and the tokens that everybody learns from.

    Returns facts: parameters, flops per token, precision that is fastest here, rate of its matrix products.
    """
    import numpy as np
    import torch
    import transformers

    from danlu.models.estimate import flops_per_token
    from danlu.models.hardware import describe_device, measure_gemm, pick_precision
    from danlu.recipe.load import read_tree

    recipe = read_tree(recipe_of(folder, context=context, batch_tokens=context, from_scratch=True))
    data = recipe.task.prepare(recipe.data, seed=0, base=None, say=lambda text: None)
    rows = [np.asarray(data.train[i]["input_ids"]) for i in range(min(len(data.train), 4000))]
    np.save(folder / "rows.npy", np.stack([row for row in rows if len(row) == context]))
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(max_position_embeddings=context, **model))
    made.save_pretrained(folder / "model")
    data.tools.save_pretrained(folder / "model")
    precision = pick_precision("auto", torch.device("cpu"))
    return {
        "parameters": sum(weight.numel() for weight in made.parameters()),
        "flops_per_token": flops_per_token(made, context),
        "precision": precision,
        "gemm": max(measure_gemm(precision), measure_gemm("fp32")),
        "device": describe_device("cpu"),
    }


def recipe_of(
    folder: Path, *, context: int, batch_tokens: int, block: int = 1, lora: bool = False, from_scratch: bool = False
) -> dict[str, Any]:
    """danlu's recipe for the same work: training alone, a line in the journal after each block of steps."""
    design = {"design": {"family": "llama", "layers": 1, "width": 64, "heads": 1}}
    model: dict[str, Any] = design if from_scratch else {"from": str(folder / "model")}
    if lora:
        model["adapter"] = {"kind": "lora", "r": 16, "alpha": 32}
    never = {"steps": 10**6}
    return {
        "name": "benchmark",
        "task": "text-generation",
        "data": {
            "train": "builtin:python-stdlib",
            "context": context,
            "tokenizer": {"train": "bpe", "size": 8192} if from_scratch else {"from": str(folder / "model")},
        },
        "model": model,
        "train": {
            "budget": never,
            "batch": {"tokens": batch_tokens},
            "optimizer": {"kind": "adamw", "lr": 5e-5},
            "evaluate_every": never,
            "checkpoint_every": never,
            "log_every": {"steps": block},
            "samples": False,
        },
        "techniques": {"grad_clip": {"norm": 1.0}},  # as Trainer has it
    }
