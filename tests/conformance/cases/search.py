"""Search: pairs alone, and with negatives, prefixes of the embedding, equal queries and equal documents."""

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.data.config import DataConfig, TokenizerConfig
from danlu.tasks.search import Search

from .case import Case, make_case

WORDS = ("read", "write", "open", "close", "file", "socket", "queue", "list", "sort", "parse", "date", "name")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt((vectors**2).sum(-1, keepdims=True))


def scored(queries: np.ndarray, documents: np.ndarray, keys: np.ndarray, batch: Batch) -> dict[str, list[float]]:
    """Query by query, with the list of its documents in order; written from the definitions."""
    corpus = {
        int(key): vector
        for row, names in zip(documents, keys, strict=True)
        for vector, key in zip(row, names, strict=True)
        if key >= 0
    }
    right: dict[int, set[int]] = {}
    asked: dict[int, np.ndarray] = {}
    for vector, query, names in zip(queries, batch.labels["query_keys"].tolist(), keys, strict=True):
        right.setdefault(query, set()).add(int(names[0]))
        asked.setdefault(query, vector)
    found: dict[str, list[float]] = {}
    for query, vector in asked.items():
        scores = {key: float(unit(vector) @ unit(document)) for key, document in corpus.items()}
        order = sorted(scores, key=lambda key: -scores[key])
        hits = [key in right[query] for key in order]
        for k in (1, 10, 100):
            found.setdefault(f"recall@{k}", []).append(sum(hits[:k]) / len(right[query]))
        ideal = sum(1 / math.log2(at + 2) for at in range(min(10, len(right[query]))))
        gain = sum(1 / math.log2(at + 2) for at, hit in enumerate(hits[:10]) if hit)
        found.setdefault("ndcg@10", []).append(gain / ideal)
        found.setdefault("mrr@10", []).append(next((1 / (at + 1) for at, hit in enumerate(hits[:10]) if hit), 0.0))
        for key in right[query]:
            others = sum(
                math.exp(20 * score) for name, score in scores.items() if name == key or name not in right[query]
            )
            found.setdefault("loss", []).append(math.log(others) - 20 * scores[key])
    return found


def reference(dims: tuple[int, ...]):
    def of(outputs: Outputs, batch: Batch) -> Mapping[str, float]:
        queries, documents = (outputs.extra[name].double().numpy() for name in ("queries", "documents"))
        keys = batch.labels["document_keys"].numpy()
        scores = scored(queries, documents, keys, batch)
        metrics = {name: sum(values) / len(values) for name, values in scores.items()}
        for dim in dims:
            values = scored(queries[:, :dim], documents[..., :dim], keys, batch)["ndcg@10"]
            metrics[f"ndcg@10_dim_{dim}"] = sum(values) / len(values)
        return metrics

    return of


def _made(folder: Path, task: Search, dims: tuple[int, ...] = (), *, negatives: bool = False) -> Case:
    draw = random.Random(2)

    def text(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randrange(1, most)))

    rows = []
    for at in range(90):
        row = {"query": text(5), "document": text(12), "module": draw.choice("ab")}
        if at % 9 == 0 and rows:  # what is right twice, for one query or for two
            row |= {"query": rows[-1]["query"]} if at % 2 else {"document": rows[-1]["document"]}
        rows.append({**row, "negatives": [text(12) for _ in range(draw.randrange(4))]} if negatives else row)
    path, corpus = folder / "rows.jsonl", folder / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus.write_text(
        "".join(json.dumps({"id": f"d{at}", "document": row["document"]}) + "\n" for at, row in enumerate(rows))
    )
    data = DataConfig(train=str(path), valid="40%", context=16, tokenizer=TokenizerConfig(train="bpe", size=320))
    options = {"context": 16, "corpus": str(corpus), "top": 3}
    asked = [{"query": row["query"]} for row in rows[:40]]
    return make_case(task, data, "bert", reference(dims), asked=asked, options=options)


CASES = {
    "pairs": lambda folder: _made(folder, Search()),
    "negatives": lambda folder: _made(
        folder, Search(negatives=2, symmetric=True, dims=(32, 8), document_prefix="write: "), (8,), negatives=True
    ),
}
