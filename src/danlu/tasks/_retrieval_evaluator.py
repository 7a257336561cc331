"""Evaluation of search: every query against all documents of the evaluated data, exactly."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.outputs import Outputs
from danlu.maths.retrieval import ranking_scores, ranks_and_loss
from danlu.tasks._own_metrics import OwnMetric, measured
from danlu.tasks.base import Evaluator

NUM_SHOWN = 8
NUM_RANKED = 5
MOST_SLICES = 30
LENGTHS = (8, 16, 32)
"""tokens of a query up to which it counts as short, special ones included"""


class RetrievalEvaluator(Evaluator):
    """Keeps the embedding of every query and document: 4 D bytes each.

    The corpus is every distinct document of the data, negatives included. Rows with the same query are one query with
    several right documents. `dims` are the prefixes of the embedding that are judged besides the whole.
    """

    def __init__(self, *, dims: Sequence[int], scale: float, own: Mapping[str, OwnMetric]) -> None:
        self.dims, self.scale, self.own = tuple(dims), scale, own
        self._rows: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        self._shown: list[bytes] = []

    def update(self, outputs: Outputs, batch: Batch) -> None:
        counted_B = torch.ones_like(batch.targets_B, dtype=torch.bool)
        if batch.weights_B is not None:
            counted_B = batch.weights_B != 0
        told = (
            cast(Tensor, outputs.extra["queries"]),
            cast(Tensor, outputs.extra["documents"]),
            cast(Tensor, batch.labels["query_keys"]),
            cast(Tensor, batch.labels["document_keys"]),
            cast(Tensor, batch.inputs["query_mask"]).sum(1),
        )
        queries, documents, query_keys, document_keys, lengths = (part.detach()[counted_B].cpu() for part in told)
        self._rows.append((queries.float(), documents.float(), query_keys, document_keys, lengths))
        shown = cast(tuple[Tensor, ...], batch.labels["shown"])
        self._shown += [bytes(shown[at].cpu().numpy()) for at in counted_B.nonzero()[:, 0].tolist()]

    def state(self) -> object:
        return self._rows, self._shown

    def absorb(self, state: object) -> None:
        rows, shown = cast(tuple[list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]], list[bytes]], state)
        self._rows += rows
        self._shown += shown

    def result(self) -> dict[str, float]:
        found = _Gathered(self._rows, self._shown)
        ranks_P, loss = found.ranks(self.scale)
        ranks = found.by_query(ranks_P)
        metrics = {name: float(values.mean()) for name, values in ranking_scores(ranks).items()}
        for dim in (dim for dim in self.dims if dim < found.queries_QD.shape[1]):
            smaller = ranking_scores(found.by_query(found.ranks(self.scale, dim)[0]))
            metrics[f"ndcg@10_dim_{dim}"] = float(smaller["ndcg@10"].mean())
        own = measured(self.own, [entry + 1 for entry in ranks], len(found.documents_MD))
        return {**metrics, "loss": loss, **own}

    def tables(self) -> dict[str, object]:
        """`per_slice`: scores by the length of the query and by the data's own slices; `rankings`: some queries."""
        found = _Gathered(self._rows, self._shown)
        ranks = found.by_query(found.ranks(self.scale)[0])
        return {"per_slice": _per_slice(found, ranks), "rankings": _rankings(found, ranks)}


class _Gathered:
    """Distinct queries and documents, in the order of their keys, whatever the order of the rows was."""

    def __init__(self, rows: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]], shown: list[bytes]) -> None:
        queries_ND, documents_NKD, query_keys_N, document_keys_NK, lengths_N = map(torch.cat, zip(*rows, strict=True))
        keys_Q, first_Q, self.query_of_N = np.unique(query_keys_N.numpy(), return_index=True, return_inverse=True)
        self.queries_QD, self.lengths_Q = queries_ND[first_Q], lengths_N[first_Q].numpy()
        flat = document_keys_NK.flatten().numpy()
        real = np.flatnonzero(flat >= 0)
        keys_M, first_M = np.unique(flat[real], return_index=True)
        self.documents_MD = documents_NKD.flatten(0, 1)[real[first_M]]
        self.right_N = np.searchsorted(keys_M, document_keys_NK[:, 0].numpy())
        self.pairs_P2 = torch.from_numpy(np.unique(np.stack([self.query_of_N, self.right_N], 1), axis=0))
        self.starts_Q = np.searchsorted(self.pairs_P2[:, 0].numpy(), np.arange(len(keys_Q)))
        told = [json.loads(entry) for entry in shown]
        self.query_texts = {int(at): entry[0] for at, entry in zip(self.query_of_N, told, strict=True)}
        self.document_texts = {int(at): entry[1] for at, entry in zip(self.right_N, told, strict=True)}
        self.slices: dict[int, str] = {}
        for at, entry in sorted(zip(self.query_of_N.tolist(), told, strict=True), key=lambda pair: (pair[0], pair[1])):
            self.slices.setdefault(at, entry[2])

    def ranks(self, scale: float, dim: int | None = None) -> tuple[np.ndarray, float]:
        """The rank of each pair's document for its query, from 0, and the loss."""
        ranks_P, loss = ranks_and_loss(self.queries_QD[:, :dim], self.documents_MD[:, :dim], self.pairs_P2, scale=scale)
        return ranks_P.numpy(), loss

    def by_query(self, ranks_P: np.ndarray) -> list[np.ndarray]:
        return np.split(ranks_P, self.starts_Q[1:])


def _per_slice(found: _Gathered, ranks: Sequence[np.ndarray]) -> dict[str, object]:
    scores = {name: values for name, values in ranking_scores(ranks).items() if name != "recall@100"}
    members: dict[str, list[int]] = {_length_name(limit): [] for limit in (*LENGTHS, None)}
    own: dict[str, list[int]] = defaultdict(list)
    for at, length in enumerate(found.lengths_Q.tolist()):
        members[_length_name(next((limit for limit in LENGTHS if length <= limit), None))].append(at)
        if found.slices[at]:
            own[found.slices[at]].append(at)
    largest = sorted(own, key=lambda name: (-len(own[name]), name))[:MOST_SLICES]
    chosen = [
        *((name, entries) for name, entries in members.items() if entries),
        *((name, own[name]) for name in largest),
    ]
    rows = [
        [name, len(entries), *(round(float(values[entries].mean()), 4) for values in scores.values())]
        for name, entries in chosen
    ]
    return {"columns": ["slice", "queries", *scores], "rows": rows}


def _length_name(limit: int | None) -> str:
    return f"queries over {LENGTHS[-1]} tokens" if limit is None else f"queries to {limit} tokens"


def _rankings(found: _Gathered, ranks: Sequence[np.ndarray]) -> list[dict[str, object]]:
    """The first queries by key, which is a hash: a fair draw that is the same each time."""
    few = min(NUM_SHOWN, len(ranks))
    queries_QD, documents_MD = (
        torch.nn.functional.normalize(part, dim=-1) for part in (found.queries_QD[:few], found.documents_MD)
    )
    top = (queries_QD @ documents_MD.T).topk(min(NUM_RANKED, len(documents_MD)), dim=1)
    rights = np.split(found.pairs_P2[:, 1].numpy(), found.starts_Q[1:])
    return [
        {
            "query": found.query_texts[at],
            "rank": int(ranks[at].min()) + 1,
            "documents": [
                {
                    "text": found.document_texts.get(place, "(a negative)"),
                    "score": round(score, 3),
                    "right": place in rights[at].tolist(),
                }
                for score, place in zip(top.values[at].tolist(), top.indices[at].tolist(), strict=True)
            ],
        }
        for at in range(few)
    ]
