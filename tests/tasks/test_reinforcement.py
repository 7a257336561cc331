"""Reinforcement: a run raises its reward, is resumed to the bit, and says what is wrong with a reward function."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials, constant
from danlu.core.errors import RequestError, RunError
from danlu.core.journal import read_journal
from danlu.core.technique import StepContext
from danlu.data.config import DataConfig, TokenizerConfig
from danlu.dist.world import World
from danlu.models.forward import Forward
from danlu.recipe.load import read_tree
from danlu.stages.evaluate import evaluate
from danlu.stages.predict import predict
from danlu.stages.train import train
from danlu.tasks._rollouts import Rewards
from danlu.tasks.reinforcement import Reinforcement
from danlu.train.interrupts import Interrupts
from danlu.train.stepper import LossModule, Stepper
from tests.conformance.cases.aligned import fiery, preference_rows, write_base

from .conftest import Row

Write = Callable[[str, list[Row]], str]
FIERY = "tests.conformance.cases.aligned:fiery"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


def tree(train: str, base: str, *, steps: int = 8, **task: Any) -> Any:
    return {
        "name": "tiny",
        "task": {"kind": "reinforcement", "rewards": [FIERY], "group": 8, "max_tokens": 8, "num_samples": 1, **task},
        "data": {"train": train, "valid": "10%", "context": 40},
        "model": {"from": base},
        "train": {
            "budget": {"steps": steps},
            "schedule": {"shape": "constant"},
            "batch": {"examples": 6},
            "optimizer": {"kind": "adamw", "lr": 2e-2},
            "evaluate_every": {"steps": steps},
            "log_every": {"steps": 1},
            "checkpoint_every": {"steps": 3},
            "samples": False,
        },
        "control": "off",
    }


def prompts(write: Write) -> str:
    return write("prompts.jsonl", [{"prompt": row["prompt"], "limit": 9} for row in preference_rows(40)])


def readings(folder: Path, name: str) -> list[float]:
    return [record["values"][name] for record in read_journal(folder / "journal.jsonl") if record["kind"] == "reading"]


def test_the_reward_rises(base: str, write: Write, tmp_path: Path) -> None:
    recipe = read_tree(tree(prompts(write), base, steps=14, beta=0.01))
    run = train(recipe, out=tmp_path / "run")
    rewards = readings(run, "reward")
    assert sum(rewards[-4:]) > 3 * sum(rewards[:4])
    assert readings(run, "kl")[0] == pytest.approx(0.0, abs=1e-6)
    assert readings(run, "kl")[-1] > 0.001
    assert readings(run, "reward_std")[0] > 0
    assert readings(run, "completion_tokens")[0] <= 8
    assert 0 < readings(run, "entropy")[-1] < readings(run, "entropy")[0]
    metrics = json.loads((run / "summary.json").read_text())["metrics"]["last"]
    assert metrics["reward"] > 2 * sum(rewards[:4]) / 4
    again = evaluate(run, data=prompts(write))
    assert again["reward"] > 2 * sum(rewards[:4]) / 4
    asked = write("asked.jsonl", [{"prompt": "wood fire"}])
    assert predict(run, input=asked, out=tmp_path / "out.jsonl", options={"max_tokens": 6}) == 1
    assert fiery([json.loads((tmp_path / "out.jsonl").read_text())["prediction"]], [""])[0] > 0.2


@pytest.mark.parametrize("updates", [1, 2])
def test_a_resumed_run_is_the_same_to_the_bit(updates: int, base: str, write: Write, tmp_path: Path) -> None:
    recipe = read_tree(tree(prompts(write), base, steps=6, num_updates=updates))
    whole = train(recipe, out=tmp_path / "whole")
    stopper = Interrupts()

    def stop(record: dict[str, Any]) -> None:
        if record["kind"] == "reading" and record["step"] == 4:
            stopper.ask("enough")

    train(recipe, out=tmp_path / "parts", listeners=[stop], interrupts=stopper)
    parts = train(recipe, out=tmp_path / "parts", resume=True)
    assert readings(parts, "reward")[-2:] == readings(whole, "reward")[-2:]
    one, two = ((run / "model").glob("*.safetensors") for run in (whole, parts))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


def test_the_gradient_is_that_of_equation_3(base: str, write: Write) -> None:
    """Against the loss as the paper writes it, for answers of a policy that has moved since (so that ratios clip)."""
    task = Reinforcement(rewards=(FIERY,), group=4, max_tokens=6, beta=0.1, clip=0.1, num_updates=2)
    tokenizer = TokenizerConfig.model_validate({"from": base})
    data = DataConfig(train=prompts(write), context=32, tokenizer=tokenizer)
    prepared = task.prepare(data, seed=0, base=base, say=lambda _text: None)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    task = task.for_model(model)
    ctx = StepContext(
        clock=Clock(budget=Budget(steps=1)),
        dials=Dials([constant("learning_rate", 0.0)]),
        model=model,
        seed=3,
        device=torch.device("cpu"),
    )
    batch = task.collate([prepared.train[at] for at in range(3)], torch.arange(3))
    with torch.no_grad():
        batch = task.rollout(Forward(model), batch, ctx)
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    stepper = Stepper(LossModule(Forward(model), task), optimizer, (), world=World(), precision="fp32", seed=0)
    stepper.micro_cost = 5 * int(batch.tokens_B.max())
    stepper.step(batch, ctx)
    found = [parameter.grad.clone() for parameter in model.parameters()]
    frozen = AutoModelForCausalLM.from_pretrained(base).eval()
    rewards, total = batch.labels["reward"].view(3, 4), torch.zeros(())
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    clipped = 0
    for row in range(12):
        ids, labels = batch.inputs["input_ids"][row], batch.labels["tokens"][row]
        places = [at for at, label in enumerate(labels.tolist()) if label != -100]
        logs = [
            m(input_ids=ids[None]).logits[0, places].log_softmax(-1).gather(1, labels[places, None])[:, 0]
            for m in (model, frozen)
        ]
        old, reference = logs[1].detach(), logs[1].detach()  # the old policy was the reference
        torch.testing.assert_close(batch.labels["old"][row, places], old, rtol=1e-4, atol=1e-4)
        ratio = torch.exp(logs[0] - old)
        clipped += int(((ratio - 1).abs() > 0.1).sum())
        gain = torch.minimum(ratio * advantages[row], ratio.clamp(0.9, 1.1) * advantages[row])
        divergence = torch.exp(reference - logs[0]) - (reference - logs[0]) - 1
        total = total - (gain - 0.1 * divergence).mean() / 12
    expected = torch.autograd.grad(total, list(model.parameters()))
    assert clipped > 5
    largest = max(float(gradient.abs().max()) for gradient in expected)
    assert largest > 0
    assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-3 * largest


def one_short(completions: list[str]) -> list[float]:
    return [0.0] * (len(completions) - 1)


def not_a_number(completions: list[str]) -> list[float]:
    return [float("nan") for _ in completions]


def breaks(completions: list[str]) -> list[float]:
    raise KeyError("score")


def wants_more(completions: list[str], solution: list[str]) -> list[float]:
    return [0.0 for _ in solution]


def breaks_later(completions: list[str]) -> list[float | None]:
    return [None if text else 0.0 for text in completions]


@pytest.mark.parametrize(
    ("reward", "problem"),
    [
        ("tests.tasks.nowhere:fine", "there is no module 'tests.tasks.nowhere'"),
        (f"{__name__}:one_shot", "has no function 'one_shot'. Did you mean 'one_short'"),
        (f"{__name__}:one_short", "one_short gave 1 values for 2 completions"),
        (f"{__name__}:not_a_number", "not_a_number gave nan for ''"),
        (f"{__name__}:breaks", "breaks raised KeyError: 'score'"),
        (f"{__name__}:wants_more", "wants_more wants 'solution', which is not there"),
    ],
)
def test_a_bad_reward_is_told_before_the_start(
    reward: str, problem: str, base: str, write: Write, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=re.escape(problem)):
        train(read_tree(tree(prompts(write), base, rewards=[reward])), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_else_cannot_be_is_refused(base: str, write: Write, tmp_path: Path) -> None:
    path = prompts(write)
    with pytest.raises(RequestError, match="there is no reward function"):
        train(read_tree(tree(path, base, rewards=[])), out=tmp_path / "run")
    with pytest.raises(RequestError, match="there are 1 rewards and 2 weights"):
        train(read_tree(tree(path, base, reward_weights=[1, 2])), out=tmp_path / "run")
    with pytest.raises(RequestError, match="no room for an answer of 64"):
        train(read_tree(tree(path, base, max_tokens=64)), out=tmp_path / "run")
    with pytest.raises(RunError, match="breaks_later gave None for"):
        train(read_tree(tree(path, base, rewards=[f"{__name__}:breaks_later"])), out=tmp_path / "later")


def test_rewards_get_columns_and_prompts() -> None:
    rewards = Rewards(("tests.conformance.cases.aligned:fiery", "tests.conformance.cases.aligned:short"), ())
    rows = [{"prompt": "a", "columns": {"limit": 4, "other": 1}}, {"prompt": "b", "columns": {"limit": 8, "other": 2}}]
    assert rewards(["ee", "abcd"], rows).tolist() == [[1.0, 0.5], [0.0, 0.5]]
