"""From the command to the first step: `python benchmarks/startup.py [--rounds N]`.

`danlu train RECIPE` against a script with transformers' Trainer: the same model folder, tokens encoded before (danlu's
are in its cache, Trainer reads them from one file, which is less work than its users' datasets); with --litgpt also
litgpt's pretraining, by a Python that has it (it may not share an environment with danlu). Then what the small
commands cost, and the share of each library in the imports. CPU seconds (user and system, children included) say more
than seconds on a machine with other work; printed is the least of the rounds.
"""

import argparse
import collections
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _common as common
import yaml

MODEL = {
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
ROWS, CONTEXT = 8, 256
PROGRAM = "import sys; sys.argv[0] = 'danlu'; from danlu.cli.main import main; main()"
TRAINER = """
import sys, tempfile
import numpy as np, torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
folder, rows = sys.argv[1], int(sys.argv[2])
tokens = [torch.from_numpy(row.astype(np.int64)) for row in np.load(folder + "/rows.npy")]
arguments = TrainingArguments(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=rows, max_steps=1,
                              save_strategy="no", report_to=[], use_cpu=True, logging_steps=1)
model = AutoModelForCausalLM.from_pretrained(folder + "/model")
Trainer(model=model, args=arguments, train_dataset=[{"input_ids": ids, "labels": ids} for ids in tokens]).train()
"""

LITGPT = """
import sys, tempfile
import numpy as np, torch
from torch.utils.data import DataLoader
from litgpt import Config
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import DataModule
from litgpt.pretrain import setup

class Rows(DataModule):
    def connect(self, tokenizer=None, batch_size=1, max_seq_length=None):
        self.size = batch_size
    def train_dataloader(self):
        rows = np.load(sys.argv[1] + "/rows.npy").astype(np.int64)
        return DataLoader([torch.from_numpy(np.append(row, row[0])) for row in rows], batch_size=self.size)
    val_dataloader = train_dataloader

model = Config(name="rows", block_size=256, n_layer=6, n_embd=384, n_head=6, n_query_groups=2, padded_vocab_size=8192,
               rotary_percentage=1.0, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
               intermediate_size=1024)
rows = int(sys.argv[2])
setup("rows", model, out_dir=tempfile.mkdtemp(), devices=1, data=Rows(), logger_name="csv",
      train=TrainArgs(global_batch_size=rows, micro_batch_size=rows, max_tokens=10**6, log_interval=1,
                      save_interval=None, lr_warmup_steps=1, max_norm=1.0, min_lr=4e-5, tie_embeddings=False),
      eval=EvalArgs(interval=1000, max_iters=1, initial_validation=False, final_validation=False))
"""


def measure(command: Sequence[str], folder: str, until: str | None = None) -> tuple[float, float]:
    """(seconds, CPU seconds) of a command, or until a line of its output holds `until`, when it is killed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=common.environment({"PYTHONUNBUFFERED": "1"}),
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if until is not None and until in line:
            break
    seconds = time.perf_counter() - started
    process.kill() if until is not None else process.wait()
    process.wait()
    if until is not None and not any(until in line for line in said):
        raise RuntimeError(f"{command} never came to {until}:\n{''.join(said[-30:])}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def shares(command: Sequence[str], folder: str) -> list[tuple[str, float]]:
    """Library → seconds of its own modules among the imports, by -X importtime (which itself slows them)."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command[1:]],
        capture_output=True,
        text=True,
        cwd=folder,
        env=common.environment(),
    )
    own: collections.Counter[str] = collections.Counter()
    for line in done.stderr.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and parts[0].strip().isdigit():
            own[parts[2].strip().partition(".")[0]] += int(parts[0])
    return [(name, micros / 1e6) for name, micros in own.most_common(8)]


def commands(folder: Path, litgpt: str | None) -> dict[str, tuple[list[str], str | None]]:
    danlu, recipe = [sys.executable, "-c", PROGRAM], folder / "recipe.yaml"
    tree = common.recipe_of(folder, context=CONTEXT, batch_tokens=ROWS * CONTEXT)
    recipe.write_text(yaml.safe_dump(tree))
    (folder / "wrong.yaml").write_text(yaml.safe_dump({**tree, "modle": {}}))
    (folder / "trainer.py").write_text(TRAINER)
    (folder / "lit.py").write_text(LITGPT)
    other = {"litgpt, first step": ([litgpt, "lit.py", str(folder), str(ROWS)], "step 1")} if litgpt else {}
    return {
        **other,
        "Trainer, first step": ([sys.executable, "trainer.py", str(folder), str(ROWS)], "train_runtime"),
        "danlu train, first step": ([*danlu, "train", "recipe.yaml", "--json"], '"kind": "reading"'),
        "danlu train, a wrong recipe": ([*danlu, "train", "wrong.yaml"], None),
        "danlu explain": ([*danlu, "explain", "recipe.yaml"], None),
        "danlu --help": ([*danlu, "--help"], None),
        "import torch": ([sys.executable, "-c", "import torch"], None),
        "import AutoModel... and Trainer": ([sys.executable, "-c", "from transformers import Trainer"], None),
    }


def child(_: dict[str, Any]) -> None:
    folder = Path(os.environ["BENCHMARK_FOLDER"])
    common.report(**common.prepare(folder, context=CONTEXT, model=MODEL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litgpt", metavar="PYTHON", help="a Python with litgpt, to be measured too")
    given = parser.parse_args()
    rounds = given.rounds
    with tempfile.TemporaryDirectory() as name:
        one = common.Child(__file__, {}, {"BENCHMARK_FOLDER": name})
        one.hear()
        one.end()
        asked = commands(Path(name), given.litgpt)
        found: dict[str, list[tuple[float, float]]] = {what: [] for what in asked}
        for number in range(rounds + 1):
            for what, (command, until) in asked.items():
                taken = measure(command, name, until)
                if number:  # the first round fills the page cache, danlu's caches and the compiled kernels
                    found[what].append(taken)
        print(f"{'':36} {'seconds':>8} {'CPU s':>7}")
        for what, seen in found.items():
            print(f"{what:36} {min(s for s, _ in seen):8.2f} {min(cpu for _, cpu in seen):7.2f}")
        print()
        for other in ("Trainer", *(["litgpt"] if given.litgpt else [])):
            pairs = list(zip(found[f"{other}, first step"], found["danlu train, first step"], strict=True))
            for at, unit in enumerate(("seconds to the first step", "CPU seconds")):
                print(f"{other} / danlu, {unit}: {common.range_of([a[at] / b[at] for a, b in pairs])}")
        short = ["x", "-c", PROGRAM, "train", "recipe.yaml", "train.budget.steps=1", "-q"]
        for what, command in (("danlu train", short), ("Trainer", ["x", *asked["Trainer, first step"][0][1:]])):
            listed = shares(command, name)
            total = sum(seconds for _, seconds in listed)
            print(f"\nimports of {what}, by library: " + ", ".join(f"{lib} {s / total:.0%}" for lib, s in listed))


if __name__ == "__main__":
    wanted = common.request_of(sys.argv[1:])
    if wanted is None:
        main()
    else:
        child(wanted)
