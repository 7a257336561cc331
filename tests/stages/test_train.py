"""Training through the real command line: what a run survives, and that processes do not change what it learns."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from danlu.core.journal import Record, read_journal, standing
from danlu.stages.trained import open_model

RECIPE = """
name: tiny
task: text-generation
data: {{train: words.txt, valid: 10%, context: 32, tokenizer: {{train: bpe, size: 300}}, cache: cache}}
model: {{design: {{family: llama, layers: 2, width: 32, heads: 2, kv_heads: 1}}}}
train:
  budget: {{steps: {steps}}}
  batch: {{tokens: 512}}
  micro_batch: 4
  precision: fp32
  optimizer: {{kind: adamw, lr: 3.0e-3}}
  evaluate_every: {{steps: 20}}
  checkpoint_every: {{steps: 5}}
  log_every: {{steps: 1}}
  samples: false
techniques:
  weight_decay: {{l2: 0.1}}
  grad_clip: {{norm: 1.0}}
  ema: {{decay: 0.9}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some text and a recipe of 60 steps; commands are run in it."""
    tmp_path = tmp_path_factory.mktemp("place")
    lines = [f"the {n % 7} furnace melts {n * n % 13} parts of lead and {n * n * n % 11} of gold" for n in range(1500)]
    (tmp_path / "words.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(steps=60), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A run of one process that nothing happened to."""
    assert danlu(place, "--out", "whole").returncode == 0
    return place / "whole"


def danlu(place: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*words), cwd=place, capture_output=True, text=True, timeout=300, env=_quiet_threads(), **options
    )


def start(place: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _command(*words), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_quiet_threads()
    )


def losses(run: Path) -> dict[int, float]:
    records = standing(read_journal(run / "journal.jsonl"))
    return {int(r["step"]): float(r["values"]["loss"]) for r in records if r["kind"] == "reading"}  # type: ignore[index]


def summary(run: Path) -> Record:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def wait_for_step(run: Path, step: int) -> None:
    """Returns as soon as the journal holds a reading of `step`."""
    for _ in range(3000):
        if (run / "journal.jsonl").exists() and max(losses(run), default=0) >= step:
            return
        time.sleep(0.02)
    raise TimeoutError(f"the run did not come to step {step}")


def same_weights(one: Path, two: Path) -> bool:
    weights, others = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "danlu", "train", "tiny.yaml", *words]


def _quiet_threads() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_killed_or_stopped_a_run_goes_on_bit_by_bit(place: Path, whole: Path) -> None:
    killed = start(place, "--out", "broken")
    wait_for_step(place / "broken", 12)
    killed.kill()
    killed.wait()
    stopped = start(place, "--out", "broken", "--resume")
    wait_for_step(place / "broken", 25)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(120) == 143
    assert summary(place / "broken")["status"] == "stopped"
    interrupted = start(place, "--out", "broken", "--resume")
    wait_for_step(place / "broken", 40)
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(120) == 130
    assert danlu(place, "--out", "broken", "--resume").returncode == 0
    assert summary(place / "broken")["status"] == "finished"
    assert losses(place / "broken") == losses(whole)
    assert same_weights(place / "broken", whole)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(place: Path, whole: Path, strategy: str) -> None:
    told = danlu(place, "--out", strategy, "--processes", "2", f"parallel.strategy={strategy}")
    assert told.returncode == 0, told.stderr
    one, two = losses(whole), losses(place / strategy)
    assert one.keys() == two.keys()
    assert len(one) >= 50
    assert max(abs(one[step] - two[step]) for step in one) < 1e-4


def test_a_checkpoint_of_two_processes_goes_on_with_one_and_back(place: Path) -> None:
    shared = ["--out", "mixed", "parallel.strategy=fsdp"]
    assert danlu(place, *shared, "--processes", "2", "train.budget.steps=20").returncode == 0
    assert danlu(place, *shared, "--resume", "train.budget.steps=40").returncode == 0
    told = danlu(place, *shared, "--resume", "--processes", "2", "train.budget.steps=60")
    assert told.returncode == 0, told.stderr
    # the learning rate follows the budget: the same steps, but not the same curve; each leg must go on smoothly
    mixed = losses(place / "mixed")
    assert list(mixed) == list(range(1, 61))
    assert abs(mixed[21] - mixed[20]) < 0.5
    assert mixed[60] < mixed[1]


def test_the_model_is_hugging_faces_own(whole: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    tokens = AutoTokenizer.from_pretrained(whole / "model")("the furnace melts", return_tensors="pt")
    ours = open_model(whole).model
    assert torch.equal(model(**tokens).logits, ours(**tokens).logits)


def test_a_loss_that_is_not_a_number_ends_the_run_and_spares_the_checkpoints(place: Path) -> None:
    words = ("train.optimizer.lr=1e18", "train.schedule.warmup=20", "train.schedule.shape=constant")
    told = danlu(place, "--out", "nan", *words, "techniques.grad_clip=false", "techniques.ema=false")
    assert told.returncode == 1
    assert "nan" in told.stderr.lower() or "inf" in told.stderr.lower()
    assert "Traceback" not in told.stderr
    end = summary(place / "nan")
    assert end["status"] == "failed"
    assert "loss" in str(end["reason"])
    for path in (place / "nan" / "checkpoints").glob("step-*/*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values())


def test_a_full_disk_is_told_and_the_last_checkpoint_stands(place: Path) -> None:
    assert danlu(place, "--out", "full", "train.budget.steps=10").returncode == 0
    limited = f"ulimit -f 100; exec {' '.join(_command('--out', 'full', '--resume', 'train.budget.steps=40'))}"
    told = subprocess.run(
        ["bash", "-c", limited], cwd=place, capture_output=True, text=True, timeout=300, env=_quiet_threads()
    )
    assert told.returncode == 1, told.stderr
    assert "disk is full" in told.stderr
    assert "Traceback" not in told.stderr
    assert summary(place / "full")["status"] == "failed"
    assert danlu(place, "--out", "full", "--resume", "train.budget.steps=40").returncode == 0


def test_a_wrong_request_leaves_nothing(place: Path) -> None:
    (place / "taken").write_text("", encoding="utf-8")
    for words in (["model.design.family=lama"], ["data.train=nowhere.txt"], ["--out", "taken"]):
        told = danlu(place, *words)
        assert told.returncode == 2, told.stderr
        assert "Traceback" not in told.stderr
    assert not (place / "runs").exists()
