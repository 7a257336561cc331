"""What the cases of tasks that align a model share: rows of words, and a folder with a small model to start from."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from danlu.data.config import DataConfig, TokenizerConfig
from danlu.data.tokenizers import make_tokenizer
from danlu.models.build import build_model
from danlu.models.config import ModelConfig
from danlu.models.save import save_model
from danlu.tasks._reference import Reference

from .case import Case

WORDS = ("fire", "wood", "furnace", "alchemist", "steady", "burns", "slowly", "keeps")


def preference_rows(count: int = 60) -> list[dict[str, str]]:
    """Of each prompt the words in order are preferred to the words backwards."""
    draw = random.Random(0)
    prompts = [" ".join(draw.choices(WORDS, k=draw.randrange(2, 6))) for _ in range(count)]
    rows = []
    for prompt in prompts:
        words = sorted(prompt.split())
        rows.append({"prompt": prompt, "chosen": " ".join(words), "rejected": " ".join(words[::-1])})
    return rows


def write_rows(rows: list[dict[str, Any]], path: Path) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def small_model(tokenizer: Any, *, seed: int = 1) -> PreTrainedModel:
    """A decoder of two small layers, untrained."""
    design = {"family": "llama", "layers": 2, "width": 32, "heads": 2}
    return build_model(
        ModelConfig.model_validate({"design": design}),
        auto_class="AutoModelForCausalLM",
        vocab_size=len(tokenizer),
        context=96,
        special_tokens={"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id},
        seed=seed,
    ).eval()


def write_base(folder: Path) -> str:
    """Such a model with its tokenizer in a folder, to start from."""
    texts = [" ".join(row.values()) for row in preference_rows()]
    tokenizer = make_tokenizer(TokenizerConfig(train="bpe", size=320), lambda: texts, key="aligned", cache=folder)
    save_model(small_model(tokenizer), folder / "base", tools=tokenizer)
    return str(folder / "base")


def data_of(train: str, context: int = 48) -> DataConfig:
    return DataConfig(train=train, valid="30%", context=context, tokenizer=TokenizerConfig(train="bpe", size=320))


def with_reference(case: Case) -> PreTrainedModel:
    """Gives the case's task another model to be held against, and returns it."""
    frozen = small_model(case.prepared.tools)
    task: Any = case.task
    task._held = dataclasses.replace(task._held, reference=Reference(frozen, None))
    return frozen


@torch.no_grad()
def sum_of_log_probs(model: Any, ids: list[int], labels: list[int], *, temperature: float = 1.0) -> float:
    """Of one text alone, token by token in fp64; `labels` holds at t the token that follows, or -100."""
    logits_TV = model(input_ids=torch.tensor([ids])).logits[0].double() / temperature
    logs_TV = logits_TV - torch.logsumexp(logits_TV, -1, keepdim=True)
    return sum(float(logs_TV[at, label]) for at, label in enumerate(labels) if label != -100)


def fiery(completions: list[str], prompts: list[str], **_columns: object) -> list[float]:
    """A reward: how much of an answer is the letter e."""
    assert len(prompts) == len(completions)
    return [text.count("e") / max(1, len(text)) for text in completions]


def short(completions: list[str], limit: list[int]) -> list[float]:
    """Another, with a column of the data: how far an answer stays below its limit."""
    return [1 - len(text) / most for text, most in zip(completions, limit, strict=True)]
