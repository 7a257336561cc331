"""Evaluation of recommendations: every item is ranked for every user, and one, the item that was held out, is right.

Each metric of ranking comes twice: plain, where all items are ranked, and `_unseen`, where those that the user had
before are left out, as most shops would do. A held-out item that the user had before can then not be found.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from danlu.core.batch import IGNORED, Batch
from danlu.core.outputs import Outputs
from danlu.data.histories import ItemVocabulary
from danlu.maths.leave_one_out import hit_rate, ndcg, pessimistic_ranks, reciprocal_rank
from danlu.tasks.base import Evaluator

SHOWN_LISTS = 6
SHOWN_HISTORY = 6
_LENGTHS = ((0, "fewer than 10 items before"), (10, "10 to 49"), (50, "50 to 199"), (200, "200 or more"))
_PLACES = ((0.0, "the 10 % most chosen items"), (0.1, "the next 40 %"), (0.5, "the 50 % least chosen"))

Row = tuple[int, int, int, int, int, float]
"""example, rank, rank among the unseen, items before, place of the target in order of popularity, loss"""


def last_scores(outputs: Outputs, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(scores of all tokens (B, V) in fp32, target tokens (B,)) at the one place of each row that has a label."""
    places_B = (labels_BT != IGNORED).to(torch.int64).argmax(1)
    rows_B = torch.arange(len(labels_BT), device=labels_BT.device)
    targets_B = labels_BT[rows_B, places_B]
    if outputs.hidden is None or outputs.head is None:
        return outputs.logits[rows_B, places_B].float(), targets_B
    with torch.autocast(labels_BT.device.type, enabled=False):  # scores in bf16 would tie by the dozen
        head, hidden_BD = outputs.head, outputs.hidden[rows_B, places_B].float()
        bias_V = None if head.bias is None else head.bias.float()
        return torch.nn.functional.linear(hidden_BD, head.weight.float(), bias_V), targets_B


def best_items(
    scores_BV: Tensor, vocabulary: ItemVocabulary, seen: Sequence[Tensor], top: int
) -> tuple[Tensor, Tensor]:
    """(tokens, scores) of the `top` best items of each row, without those in `seen`; of equal ones the more popular."""
    scores_BV = scores_BV.clone()
    scores_BV[:, : vocabulary.first_item] = -torch.inf
    hide(scores_BV, seen)
    best_scores_BK, tokens_BK = scores_BV.topk(min(top, len(vocabulary.items)), dim=1)
    tokens_BK, order_BK = tokens_BK.sort(dim=1)
    best_scores_BK, again_BK = best_scores_BK.gather(1, order_BK).sort(dim=1, descending=True, stable=True)
    return tokens_BK.gather(1, again_BK), best_scores_BK


def hide(scores_BV: Tensor, seen: Sequence[Tensor]) -> None:
    """Scores what each row's user had before -inf, in place."""
    for scores_V, tokens_S in zip(scores_BV, seen, strict=True):
        scores_V[tokens_S] = -torch.inf


class RankingEvaluator(Evaluator):
    """HR, NDCG and MRR at each k, coverage and popularity of the lists, loss; slices and some lists as tables.

    Keeps six numbers a user, a count an item, and a few lists.
    """

    def __init__(self, vocabulary: ItemVocabulary, *, ks: Sequence[int], top: int) -> None:
        self.vocabulary, self.ks, self.top = vocabulary, tuple(ks), top
        self.rows: list[Row] = []
        self.lists: dict[int, dict[str, object]] = {}
        self.recommended_V = torch.zeros(vocabulary.size, dtype=torch.int64)

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Ranks all items for the row's last place."""
        counted = _counted(batch)
        scores_BV, targets_B = last_scores(outputs, cast(Tensor, batch.labels["tokens"]))
        scores_BV, targets_B = scores_BV.detach()[counted], targets_B[counted]
        if not len(counted):
            return
        seen = [cast(tuple[Tensor, ...], batch.labels["seen"])[at] for at in counted]
        losses_B = torch.nn.functional.cross_entropy(scores_BV, targets_B, reduction="none")
        scores_BV[:, : self.vocabulary.first_item] = -torch.inf
        ranks_B = pessimistic_ranks(scores_BV, targets_B)
        hide(scores_BV, seen)
        unseen_ranks_B = pessimistic_ranks(scores_BV, targets_B)
        best_BK, _ = best_items(scores_BV, self.vocabulary, [tokens_S[:0] for tokens_S in seen], self.top)
        best_BK = best_BK.cpu()
        self.recommended_V += torch.bincount(best_BK.flatten(), minlength=self.vocabulary.size)
        columns = [
            batch.example_ids_B[counted].tolist(),
            ranks_B.tolist(),
            unseen_ranks_B.tolist(),
            [len(tokens_S) for tokens_S in seen],
            (targets_B - self.vocabulary.first_item).tolist(),
            losses_B.tolist(),
        ]
        for row, best_K, tokens_S in zip(zip(*columns, strict=True), best_BK, seen, strict=True):
            self.rows.append(cast(Row, row))
            self._show(cast(Row, row), best_K.tolist(), tokens_S.tolist())

    def state(self) -> object:
        return self.rows, self.lists, self.recommended_V

    def absorb(self, state: object) -> None:
        assert isinstance(state, tuple)
        self.rows += state[0]
        self.lists = _first(self.lists | state[1])
        self.recommended_V += state[2]

    def result(self) -> dict[str, float]:
        ranks = self._columns()
        metrics: dict[str, float] = {}
        for rule, ranks_N in (("", ranks[:, 0]), ("_unseen", ranks[:, 1])):
            for k in self.ks:
                metrics[f"hr@{k}{rule}"] = hit_rate(ranks_N, k)
                metrics[f"ndcg@{k}{rule}"] = ndcg(ranks_N, k)
                metrics[f"mrr@{k}{rule}"] = reciprocal_rank(ranks_N, k)
        counts_I = self.recommended_V[self.vocabulary.first_item :].double()
        percentiles_I = 1 - torch.arange(len(counts_I), dtype=torch.float64) / max(1, len(counts_I) - 1)
        metrics[f"coverage@{self.top}"] = float((counts_I > 0).double().mean())
        metrics[f"popularity@{self.top}"] = float((counts_I * percentiles_I).sum() / counts_I.sum())
        metrics["loss"] = sum(row[5] for row in sorted(self.rows)) / len(self.rows)
        return metrics

    def tables(self) -> dict[str, object]:
        """`slices`: the judged metrics by length of the history and by popularity; `lists`: some users' lists."""
        ranks, places_N = self._columns(), self._columns()[:, 3].double() / max(1, len(self.vocabulary.items))
        edges = [(ranks[:, 2].double(), _LENGTHS), (places_N, _PLACES)]
        rows = [row for values_N, bounds in edges for row in self._slices(ranks, values_N, bounds)]
        names = [f"{name}@{self.top}{rule}" for rule in ("", "_unseen") for name in ("hr", "ndcg")]
        shown = [self.lists[at] for at in sorted(self.lists)]
        return {"slices": {"columns": ["slice", "users", *names], "rows": rows}, "lists": shown}

    def _slices(self, ranks: Tensor, values_N: Tensor, bounds: Sequence[tuple[float, str]]) -> list[list[object]]:
        edges = [*(edge for edge, _ in bounds), np.inf]
        rows: list[list[object]] = []
        for at, (_, name) in enumerate(bounds):
            inside = ranks[(values_N >= edges[at]) & (values_N < edges[at + 1])]
            if len(inside):
                scores = [measure(inside[:, rule], self.top) for rule in (0, 1) for measure in (hit_rate, ndcg)]
                rows.append([name, len(inside), *scores])
        return rows

    def _columns(self) -> Tensor:
        """(N, 4) whole numbers in the order of the examples: rank, rank among the unseen, length, place."""
        return torch.tensor([row[1:5] for row in sorted(self.rows)], dtype=torch.int64)

    def _show(self, row: Row, best: Sequence[int], seen: Sequence[int]) -> None:
        target = row[4] + self.vocabulary.first_item
        name = self.vocabulary.title
        self.lists[row[0]] = {
            "history": [name(token) for token in seen[-SHOWN_HISTORY:]],
            "items": [name(token) for token in best],
            "hit": best.index(target) if target in best else None,
            "truth": name(target),
            "rank": row[2],
        }
        self.lists = _first(self.lists)


class RatingEvaluator(Evaluator):
    """RMSE and MAE of the expected rating Σ p(level) · level, and the loss of the levels."""

    def __init__(self, vocabulary: ItemVocabulary) -> None:
        self.vocabulary = vocabulary
        self.rows: list[tuple[int, float, float, float]] = []  # example, predicted, true, loss

    def update(self, outputs: Outputs, batch: Batch) -> None:
        counted = _counted(batch)
        scores_BV, targets_B = last_scores(outputs, cast(Tensor, batch.labels["tokens"]))
        losses_B = torch.nn.functional.cross_entropy(scores_BV, targets_B, reduction="none", ignore_index=IGNORED)
        predicted_B, truth_B = expected_ratings(scores_BV, self.vocabulary), cast(Tensor, batch.labels["ratings"])
        columns = [values[counted].tolist() for values in (batch.example_ids_B, predicted_B, truth_B, losses_B)]
        self.rows += zip(*columns, strict=True)

    def state(self) -> object:
        return self.rows

    def absorb(self, state: object) -> None:
        self.rows += cast(list[tuple[int, float, float, float]], state)

    def result(self) -> dict[str, float]:
        _, predicted_N, truth_N, losses_N = (np.array(column) for column in zip(*sorted(self.rows), strict=True))
        errors_N = predicted_N - truth_N
        return {
            "rmse": float(np.sqrt((errors_N**2).mean())),
            "mae": float(np.abs(errors_N).mean()),
            "loss": float(losses_N.mean()),
        }


def expected_ratings(scores_BV: Tensor, vocabulary: ItemVocabulary) -> Tensor:
    """(B,) Σ p(level) · level, the chances over the levels alone."""
    levels_L = torch.tensor(vocabulary.levels, dtype=torch.float32, device=scores_BV.device)
    chances_BL = scores_BV[:, 2 : vocabulary.first_item].float().softmax(1)
    return chances_BL @ levels_L


def _counted(batch: Batch) -> list[int]:
    """The rows that are not padding of the last round."""
    if batch.weights_B is None:
        return list(range(batch.num_rows))
    return [at for at, weight in enumerate(batch.weights_B.tolist()) if weight != 0]


def _first(lists: dict[int, dict[str, object]]) -> dict[int, dict[str, object]]:
    """Those of the lowest examples, whatever the order in which they came."""
    return {at: lists[at] for at in sorted(lists)[:SHOWN_LISTS]}
