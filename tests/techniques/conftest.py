"""A tiny decoder and a step's context, for techniques on their own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from danlu.core.batch import Batch
from danlu.core.clock import Budget, Clock
from danlu.core.dials import Dials
from danlu.core.technique import StepContext, Technique

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.fixture
def make_model() -> Callable[..., PreTrainedModel]:
    def make(family: str = "llama", **options: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        given = options if family == "gpt2" else {**SMALL, **options}
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **given)).train()

    return make


@pytest.fixture
def make_ctx() -> Callable[..., StepContext]:
    def make(
        model: torch.nn.Module, *techniques: Technique, step: int = 0, steps: int = 10, **fields: Any
    ) -> StepContext:
        clock = Clock(budget=Budget(steps=steps), step=step)
        dials = Dials([dial for technique in techniques for dial in technique.dials()])
        return StepContext(clock=clock, dials=dials, model=model, seed=0, device=torch.device("cpu"), **fields)

    return make


@pytest.fixture
def batch() -> Batch:
    tokens_BT = torch.randint(3, 64, (4, 16), generator=torch.Generator().manual_seed(0))
    return Batch(
        inputs={"input_ids": tokens_BT},
        labels={"tokens": tokens_BT.roll(-1, 1)},
        example_ids_B=torch.tensor([7, 3, 11, 5]),
        targets_B=torch.full((4,), 16),
        tokens_B=torch.full((4,), 16),
    )
