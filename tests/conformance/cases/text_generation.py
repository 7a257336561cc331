"""Text generation: plain texts, and prompts with responses."""

import json
import math
import random
from pathlib import Path

import torch

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.config import DataConfig, TokenizerConfig
from danlu.tasks.text_generation import TextGeneration

from .case import Case, make_case

WORDS = ("fire", "wood", "furnace", "alchemist", "steady", "burns", "slowly", "keeps")


def reference(outputs: Outputs, batch: Batch) -> dict[str, float]:
    """Token by token, in fp64."""
    nats, num_tokens = 0.0, 0
    labels_BT = batch.labels["tokens"]
    for logits_TV, labels_T in zip(outputs.logits.double(), labels_BT, strict=True):
        for logits_V, label in zip(logits_TV, labels_T.tolist(), strict=True):
            if label != -100:
                nats -= float(logits_V[label] - torch.logsumexp(logits_V, 0))
                num_tokens += 1
    num_bytes = int(sum(batch.labels["num_bytes"]))
    loss = nats / num_tokens
    return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": nats / math.log(2) / num_bytes}


def _made(folder: Path, *, prompt: bool) -> Case:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randrange(3, 9))) for _ in range(60)]
    rows = [{"prompt": text, "response": text[::-1]} if prompt else {"text": text} for text in texts]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(
        train=str(path),
        valid="30%",
        context=96,
        packing="pad",
        tokenizer=TokenizerConfig(train="bpe", size=320),
    )
    asked = [{"prompt": text} for text in texts[:5]]
    options = {"max_tokens": 4}
    return make_case(TextGeneration(), data, "llama", reference, asked=asked, options=options)


CASES = {"text": lambda folder: _made(folder, prompt=False), "prompt": lambda folder: _made(folder, prompt=True)}
