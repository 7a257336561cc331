"""Tokens a second of the same model on the same tokens: `python benchmarks/train_lm.py [--quick] [--shape NAME ...]`.

Sides: transformers' Trainer as it comes; Trainer at its best on this CPU (bf16 where the processor multiplies it, else
fp32 with "medium" products; fused AdamW, which is its default; with torch.compile and without); the better of these
two with danlu's allocator setting; and danlu through `danlu.train`, with nothing about speed in its recipe. All take
turns in one run (see _common.py); where other work disturbs them, BENCHMARK_THREADS=1 and the ratio by processor time
say most (with more threads that counts their waiting too). At the end: the loss after 200 steps with kernels and
precision `auto`, against fp32 without any kernel.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import _common as common

SHAPES: dict[str, dict[str, Any]] = {
    "17M": {
        "rows": 8,
        "context": 256,
        "model": {
            "vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
            "num_attention_heads": 6, "num_key_value_heads": 2,
        },
    },
    "135M": {
        "rows": 2,
        "context": 512,
        "model": {
            "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
        },
    },
}  # fmt: skip
SHAPES["135M-lora"] = {**SHAPES["135M"], "lora": True}
SIDES = {
    "trainer": "Trainer, defaults",
    "tuned": "Trainer, best precision",
    "compiled": "Trainer, best precision, compiled",
    "tuned+malloc": "the same, danlu's allocator setting",
    "compiled+malloc": "compiled, danlu's allocator setting",
    "danlu": "danlu",
}
PARITY_STEPS, PARITY_LAST = 200, 20


def child(request: dict[str, Any]) -> None:
    work = request.pop("work")
    {"prepare": _prepare, "trainer": _trainer, "danlu": _danlu, "parity": _parity}[work](**request)


def _prepare(folder: str, shape: str) -> None:
    chosen = SHAPES[shape]
    common.report(**common.prepare(Path(folder), context=chosen["context"], model=chosen["model"]))


def _danlu(folder: str, shape: str, block: int) -> None:
    import danlu

    chosen = SHAPES[shape]
    tokens = chosen["rows"] * chosen["context"]
    tree = common.recipe_of(
        Path(folder), context=chosen["context"], batch_tokens=tokens, block=block, lora=chosen.get("lora", False)
    )
    turns = common.Turns()

    def listen(record: Any) -> None:
        if record["kind"] == "reading":
            turns.done(record["tokens"], loss=record["values"]["loss"])

    from danlu.recipe.load import read_tree

    with tempfile.TemporaryDirectory() as out:
        danlu.train(read_tree(tree), out=Path(out) / "run", listeners=[listen])


def _trainer(folder: str, shape: str, block: int, best: bool, compiled: bool, keep: bool) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from danlu.models.kernels import fast_bf16, keep_freed_memory

    chosen = SHAPES[shape]
    rows, turns = np.load(Path(folder) / "rows.npy"), common.Turns()
    if keep:
        keep_freed_memory()
    if best:
        torch.set_float32_matmul_precision("medium")
    model = AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32)
    if chosen.get("lora"):
        import peft

        options = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        model = peft.get_peft_model(model, peft.LoraConfig(**options))

    class Take(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1 or state.global_step % block == 0:
                turns.done(state.global_step * chosen["rows"] * chosen["context"])

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=chosen["rows"],
        max_steps=10**6,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=block,
        use_cpu=True,
        bf16=best and fast_bf16(),
        torch_compile=compiled,
    )
    tokens = [torch.from_numpy(row.astype(np.int64)) for row in rows]
    examples = [{"input_ids": ids, "labels": ids} for ids in tokens]
    Trainer(model=model, args=arguments, train_dataset=examples, callbacks=[Take()]).train()


def _parity(folder: str, precision: str, steps: int) -> None:
    """The mean training loss of the last steps of a small run."""
    import danlu
    from danlu.recipe.load import read_tree

    tree = common.recipe_of(Path(folder), context=128, batch_tokens=1024, from_scratch=True)
    tree["model"]["design"] |= {"layers": 4, "width": 128, "heads": 2}
    tree["train"] |= {"budget": {"steps": steps}, "optimizer": {"kind": "adamw", "lr": 2e-3}, "precision": precision}
    losses: list[float] = []

    def listen(record: Any) -> None:
        if record["kind"] == "reading":
            losses.append(record["values"]["loss"])

    with tempfile.TemporaryDirectory() as out:
        danlu.train(read_tree(tree), out=Path(out) / "run", listeners=[listen])
    common.report(loss=statistics.mean(losses[-PARITY_LAST:]), steps=len(losses))


def _start(side: str, folder: str, shape: str, block: int) -> common.Child:
    request: dict[str, Any] = {"work": "danlu", "folder": folder, "shape": shape, "block": block}
    if not side.startswith("danlu"):
        request |= {"work": "trainer", "best": side != "trainer", "compiled": side.startswith("compiled")}
        request["keep"] = side.endswith("+malloc")
    return common.Child(__file__, request)


def compare(shape: str, sides: list[str], turns: int, block: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = _once({"work": "prepare", "folder": folder, "shape": shape})
        chosen = SHAPES[shape]
        print(
            f"\n{shape}: {made['parameters'] / 1e6:.1f} M parameters,"
            f" {chosen['rows']} x {chosen['context']} tokens a step"
            f"{', LoRA r=16' if chosen.get('lora') else ''}; best precision {made['precision']}, products at"
            f" {made['gemm'] / 1e9:.0f} GFLOP/s; {made['device']}; {turns} turns of {block} steps",
            flush=True,
        )
        running, first, found = {}, {}, {side: [] for side in sides}
        try:
            for side in sides:
                running[side] = _start(side, folder, shape, block)
                first[side] = running[side].hear()["at"]
            for turn in range(turns + 1):
                for side, one in running.items():
                    got = one.turn()
                    if turn:  # the first block still warms up
                        found[side].append(got)
        finally:
            for one in running.values():
                one.end()
    _show(made, found, first)


def _show(made: dict[str, Any], found: dict[str, list[dict[str, Any]]], first: dict[str, float]) -> None:
    rates = {side: [got["tokens"] / got["seconds"] for got in seen] for side, seen in found.items()}
    spent = {side: [got["cpu_seconds"] / got["tokens"] for got in seen] for side, seen in found.items()}
    print(
        f"{'':40} {'tokens/s':>20} {'MFU':>6} {'peak':>8} {'first step':>11}   danlu is ... times as fast   by CPU time"
    )
    for side, rate in rates.items():
        mfu = max(rate) * made["flops_per_token"] / made["gemm"]
        peak = max(got["peak_bytes"] for got in found[side]) / 2**20
        ratios = [ours / theirs for ours, theirs in zip(rates.get("danlu", rate), rate, strict=True)]
        costs = [theirs / ours for ours, theirs in zip(spent.get("danlu", spent[side]), spent[side], strict=True)]
        print(
            f"{SIDES[side]:40} {common.range_of(rate, '{:.0f}'.format):>20} {mfu:6.0%} {peak:5.0f} MB"
            f" {first[side]:9.1f} s   {common.range_of(ratios):26}   {common.range_of(costs)}",
            flush=True,
        )


def parity(steps: int) -> None:
    """danlu as it comes, against fp32 in torch's own operations."""
    with tempfile.TemporaryDirectory() as folder:
        plain = _once({"work": "parity", "folder": folder, "precision": "fp32", "steps": steps}, {"DANLU_KERNELS": "0"})
        fast = _once({"work": "parity", "folder": folder, "precision": "auto", "steps": steps})
    gap = fast["loss"] / plain["loss"] - 1
    print(
        f"\nloss after {steps} steps (mean of the last {PARITY_LAST}): {plain['loss']:.4f} in fp32 without kernels,"
        f" {fast['loss']:.4f} as it comes: {gap:+.3%} ({'within' if abs(gap) < 0.01 else 'NOT within'} 1 %)"
    )


def _once(request: dict[str, Any], more: dict[str, str] | None = None) -> dict[str, Any]:
    one = common.Child(__file__, request, more)
    try:
        return one.hear()
    finally:
        one.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short turns, the small shape, nothing compiled")
    parser.add_argument("--shape", nargs="*", choices=SHAPES, help="which models")
    parser.add_argument("--sides", nargs="*", choices=SIDES, help="which sides")
    parser.add_argument("--turns", type=int)
    parser.add_argument("--block", type=int, help="steps a turn")
    parser.add_argument("--no-parity", action="store_true")
    given = parser.parse_args()
    quick = given.quick
    sides = given.sides or [side for side in SIDES if not (quick and side.startswith("compiled"))]
    for shape in given.shape if given.shape is not None else ["17M"] if quick else list(SHAPES):
        compare(shape, sides, given.turns or (2 if quick else 5), given.block or (3 if quick else 5))
    if not given.no_parity:
        parity(60 if quick else PARITY_STEPS)


if __name__ == "__main__":
    wanted = common.request_of(sys.argv[1:])
    if wanted is None:
        main()
    else:
        child(wanted)
