"""Memory and cost as texts and vocabularies grow: `python benchmarks/memory.py [--quick]`.

Memory is what a forward and backward pass of one row adds to the process's peak, each in a process of its own, two
layers 256 wide: danlu (its attention and its fused head and loss), danlu with DANLU_KERNELS=0, and the model's own loss
as transformers computes it. Cost is processor time of `danlu.train` at 1, 4 and 16 times the tokens.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common

WAYS = {"danlu": "danlu", "plain": "DANLU_KERNELS=0", "transformers": "transformers"}
LENGTHS, VOCABULARIES = (512, 1024, 2048, 4096), (8192, 32768, 131072)
AT_LENGTH, AT_VOCABULARY = 1024, 32768
TIMES = (1, 4, 16)


def child(request: dict[str, Any]) -> None:
    work = request.pop("work")
    {"peak": _peak, "cost": _cost, "prepare": _prepare}[work](**request)


def _prepare(folder: str) -> None:
    model = {"vocab_size": 8192, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    common.report(**common.prepare(Path(folder), context=128, model=model | {"intermediate_size": 384}))


def _peak(way: str, length: int, vocabulary: int) -> None:
    import torch
    import transformers

    from danlu.models.forward import Forward
    from danlu.models.kernels import accelerate, linear_cross_entropy

    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=vocabulary, max_position_embeddings=length, **sizes)
    model = transformers.LlamaForCausalLM(config).train()
    net = Forward(model)
    if way != "transformers":
        accelerate(model, device="cpu", precision="fp32")

    def step(num_tokens: int) -> None:
        ids_BT = torch.randint(vocabulary, (1, num_tokens))
        if way == "transformers":
            loss = model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
        else:
            out = net({"input_ids": ids_BT})
            labels_N = torch.roll(ids_BT, -1).flatten()
            loss = linear_cross_entropy(out.hidden.flatten(0, 1), out.head.weight, labels_N)
        loss.backward()

    step(16)  # kernels built, threads started, gradients there: what is measured is the pass alone
    before = _resident_bytes()
    step(length)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    common.report(bytes=max(0, after - before))


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _cost(folder: str, steps: int) -> None:
    """Processor seconds and tokens at 1, 4 and 16 times `steps`, from the end of the first step on."""
    import danlu
    from danlu.recipe.load import read_tree

    marks: list[tuple[float, int]] = []
    ends = [1 + steps * many for many in TIMES]

    def listen(record: Any) -> None:
        if record["kind"] == "reading":
            if record["step"] in (1, *ends):
                marks.append((time.process_time(), record["tokens"]))
            if record["step"] == ends[-1]:
                found = [(seconds - marks[0][0], tokens - marks[0][1]) for seconds, tokens in marks[1:]]
                common.report(found=found)

    tree = common.recipe_of(Path(folder), context=128, batch_tokens=1024)
    tree["train"]["budget"] = {"steps": ends[-1]}
    with tempfile.TemporaryDirectory() as out:
        danlu.train(read_tree(tree), out=Path(out) / "run", listeners=[listen])


def _once(request: dict[str, Any], way: str = "danlu") -> dict[str, Any]:
    one = common.Child(__file__, request, {"DANLU_KERNELS": "0"} if way == "plain" else None)
    try:
        return one.hear()
    finally:
        one.end()


def _table(title: str, sizes: list[tuple[int, int]], varied: int) -> None:
    print(f"\n{title}\n{'':>10}" + "".join(f"{name:>18}" for name in WAYS.values()) + f"{'full logits, fp32':>20}")
    for length, vocabulary in sizes:
        request = {"work": "peak", "length": length, "vocabulary": vocabulary}
        peaks = [_once({**request, "way": way}, way)["bytes"] / 2**20 for way in WAYS]
        logits = 4 * length * vocabulary / 2**20
        label = (length, vocabulary)[varied]
        print(f"{label:>10}" + "".join(f"{peak:15.0f} MB" for peak in peaks) + f"{logits:17.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two lengths, two vocabularies, a few steps")
    quick = parser.parse_args().quick
    lengths, vocabularies = (LENGTHS[1:3], VOCABULARIES[:2]) if quick else (LENGTHS, VOCABULARIES)
    _table(f"tokens in a row, V = {AT_VOCABULARY}", [(length, AT_VOCABULARY) for length in lengths], 0)
    _table(f"vocabulary, {AT_LENGTH} tokens", [(AT_LENGTH, vocabulary) for vocabulary in vocabularies], 1)
    with tempfile.TemporaryDirectory() as folder:
        _once({"work": "prepare", "folder": folder})
        found = _once({"work": "cost", "folder": folder, "steps": 2 if quick else 10})["found"]
    print("\nprocessor time of danlu.train, from the first step on")
    for many, (seconds, tokens) in zip(TIMES, found, strict=True):
        print(f"{many:>4} x {tokens:>9} tokens {seconds:8.2f} s {seconds / tokens * 1e6:8.1f} us a token")


if __name__ == "__main__":
    wanted = common.request_of(sys.argv[1:])
    if wanted is None:
        main()
    else:
        child(wanted)
