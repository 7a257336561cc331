"""Translation: an encoder-decoder with a plain head (marian) and one without (t5); BLEU, chrF and TER by hand."""

import json
import math
import random
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.config import DataConfig, TokenizerConfig
from danlu.tasks.text_generation import token_loss
from danlu.tasks.translation import Translation

from .case import Case, make_case

WORDS = {"fire": "Feuer", "wood": "Holz", "burns": "brennt", "slowly": "langsam", "the": "das", "and": "und"}


def grams(items: Sequence[str], order: int) -> Counter[Any]:
    return Counter(tuple(items[at : at + order]) for at in range(len(items) - order + 1))


def bleu(texts: list[str], references: list[str]) -> float:
    """Papineni et al. 2002, equations 1 to 3, with "exp" smoothing: the k-th order without a hit counts 1 / 2^k."""
    log_precision, halved = 0.0, 1.0
    pairs = [(text.split(), reference.split()) for text, reference in zip(texts, references, strict=True)]
    for order in range(1, 5):
        hits = sum((grams(ours, order) & grams(theirs, order)).total() for ours, theirs in pairs)
        total = sum(max(len(ours) - order + 1, 0) for ours, _ in pairs)
        if total == 0 or (order == 1 and hits == 0):
            return 0.0
        if hits == 0:
            halved *= 2
        log_precision += math.log(hits / total if hits else 1 / (halved * total)) / 4
    lengths = [sum(len(side) for side in sides) for sides in zip(*pairs, strict=True)]
    brevity = min(0.0, 1 - lengths[1] / lengths[0]) if lengths[0] else -math.inf
    return 100 * math.exp(brevity + log_precision)


def chrf(texts: list[str], references: list[str], word_order: int = 0) -> float:
    """Popović 2015 and 2017: F2 of the precision and the recall, each the mean over the orders that occur."""
    precisions, recalls = [], []
    for cut, orders in ((lambda text: list("".join(text.split())), 6), (words_and_marks, word_order)):
        for order in range(1, orders + 1):
            pairs = [
                (grams(cut(ours), order), grams(cut(own), order)) for ours, own in zip(texts, references, strict=True)
            ]
            hits = sum((ours & own).total() for ours, own in pairs)
            made = sum(ours.total() for ours, own in pairs if own)
            wanted = sum(own.total() for _, own in pairs)
            if made and wanted:
                precisions.append(hits / made)
                recalls.append(hits / wanted)
    if not precisions:
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * 5 * precision * recall / (4 * precision + recall) if recall else 0.0


def words_and_marks(text: str) -> list[str]:
    """A mark at the end of a word, else at its start, is a word of its own."""
    found = []
    for word in text.split():
        cut = len(word) - 1 if word[-1] in string.punctuation else 1 if word[0] in string.punctuation else 0
        found += [word[:cut], word[cut:]] if 0 < cut < len(word) else [word]
    return found


def edits(ours: list[str], own: list[str]) -> int:
    """Levenshtein's distance between words."""
    row = list(range(len(own) + 1))
    for at, word in enumerate(ours, 1):
        before, row = row, [at]
        for to, other in enumerate(own, 1):
            row.append(min(before[to] + 1, row[-1] + 1, before[to - 1] + (word != other)))
    return row[-1]


def ter(texts: list[str], references: list[str]) -> float:
    """Snover et al. 2006, where no run of words can be moved to the better: the words of these texts are numbered."""
    pairs = [(text.lower().split(), other.lower().split()) for text, other in zip(texts, references, strict=True)]
    return 100 * sum(edits(*pair) for pair in pairs) / sum(len(other) for _, other in pairs)


def greedy(model: Any, ids_S: torch.Tensor, mask_S: torch.Tensor, start: int, end: int) -> list[int]:
    """The likeliest token each time, the whole prefix computed anew, one row alone."""
    length, written = int(mask_S.sum()), [start]
    for _ in range(min(2 * length + 16, 63)):
        logits = model(
            input_ids=ids_S[None, :length], decoder_input_ids=torch.tensor([written]), use_cache=False
        ).logits
        token = int(logits[0, -1].argmax())
        if token == end:
            break
        written.append(token)
    return written[1:]


def _made(folder: Path, family: str) -> Case:
    draw = random.Random(0)
    rows = []
    for _ in range(60):
        words = draw.choices(list(WORDS), k=draw.randrange(3, 9))
        target = " ".join(f"{at}{WORDS[word]}" for at, word in enumerate(words))
        rows.append({"source": " ".join(words), "target": target})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = TokenizerConfig(train="bpe", size=360)
    data = DataConfig(train=str(path), valid="30%", context=64, tokenizer=tokenizer)
    task = Translation(num_translated=8, tokenize="none")

    def reference(outputs: Outputs, batch: Batch) -> dict[str, float]:
        tools = case.prepared.tools
        nats = num_tokens = 0.0
        for logits_TV, labels_T in zip(outputs.logits.double(), batch.labels["tokens"], strict=True):
            for logits_V, label in zip(logits_TV, labels_T.tolist(), strict=True):
                if label != -100:
                    nats -= float(logits_V[label] - torch.logsumexp(logits_V, 0))
                    num_tokens += 1
        texts, references = [], []
        for at in torch.nonzero(batch.labels["judged"]).flatten().tolist():
            ids, mask = batch.inputs["input_ids"][at], batch.inputs["attention_mask"][at]
            with torch.no_grad():
                made = greedy(case.model, ids, mask, tools.pad_token_id, tools.eos_token_id)
            texts.append(tools.decode(made, skip_special_tokens=True).strip())
            references.append(bytes(batch.labels["references"][at].tolist()).decode())
        assert len(texts) == 8
        return {
            "loss": nats / num_tokens,
            "perplexity": math.exp(nats / num_tokens),
            "bleu": bleu(texts, references),
            "chrf": chrf(texts, references),
            "chrf_pp": chrf(texts, references, word_order=2),
            "ter": ter(texts, references),
        }

    asked = [{"source": row["source"]} for row in rows[:5]]
    case = make_case(task, data, family, reference, asked=asked, options={"context": 64})
    learn(case)
    return case


def learn(case: Case) -> None:
    """A little, so that some of what is written is right."""
    rows = range(len(case.prepared.train))
    batch = case.task.collate([case.prepared.train[at] for at in rows], torch.tensor(rows))
    optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        outputs = Outputs(logits=case.model(**batch.inputs, use_cache=False).logits)
        (token_loss(outputs, batch) / batch.num_targets).backward()
        optimizer.step()


CASES = {"marian": lambda folder: _made(folder, "marian"), "t5": lambda folder: _made(folder, "t5")}
