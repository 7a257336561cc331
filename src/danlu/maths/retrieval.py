"""Formulas of search by embeddings: pooling, the contrastive loss, ranks, and the scores made of ranks.

Q queries, M documents, D dimensions, P pairs of a query with a document that is right for it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from danlu.core.batch import IGNORED

Pooling = Literal["mean", "cls", "last"]
CUTS = (1, 10, 100)
"""the k of recall at k"""
DEPTH = 10
"""the k of NDCG and MRR at k"""
_ROWS = 512


def pooled(hidden_BTD: Tensor, mask_BT: Tensor, pooling: Pooling) -> Tensor:
    """One vector a text, (B, D) in fp32: the mean of its tokens' states, or the first one's, or the last one's.

    Reimers and Gurevych 2019, section 3. Padding stands behind the text, where `mask_BT` is 0.
    """
    if pooling == "cls":
        return hidden_BTD[:, 0].float()
    if pooling == "last":
        last_B = mask_BT.long().sum(1) - 1
        return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), last_B].float()
    mask_BT1 = mask_BT.unsqueeze(-1).float()
    return (hidden_BTD.float() * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1.0)


def contrastive_losses(
    queries_BD: Tensor,
    documents_BND: Tensor,
    query_keys_B: Tensor,
    document_keys_BN: Tensor,
    *,
    scale: float,
    both: bool,
) -> Tensor:
    """-log softmax_j(s cos(q_i, d_j)) at the document of row i, for each row, (B,) in fp32.

    Multiple negatives ranking (Henderson et al. 2017, section 4; InfoNCE, van den Oord et al. 2018, equation 4). The
    candidates of row i are the documents of all rows: the first of N is the row's own, the others its negatives. Left
    out are those with a key below 0, those equal to the row's own document, and those that belong to an equal query,
    since they are right too. `both` takes the mean with the same over the queries, at the document of row i.
    """
    with torch.autocast(queries_BD.device.type, enabled=False):
        queries_BD = functional.normalize(queries_BD.float(), dim=-1)
        documents_BND = functional.normalize(documents_BND.float(), dim=-1)
        own_BD, own_keys_B = documents_BND[:, 0], document_keys_BN[:, 0]
        candidates_MD = torch.cat([own_BD, documents_BND[:, 1:].flatten(0, 1)])
        keys_M = torch.cat([own_keys_B, document_keys_BN[:, 1:].flatten()])
        rows = len(queries_BD)
        alike_BB = (own_keys_B[:, None] == own_keys_B) | (query_keys_B[:, None] == query_keys_B)
        right_keys_BM = own_keys_B[:, None] == keys_M
        right_keys_BM[:, :rows] |= alike_BB
        out_BM = right_keys_BM | (keys_M < 0)
        out_BM[:, :rows].fill_diagonal_(False)
        scores_BM = scale * queries_BD @ candidates_MD.T
        places_B = torch.arange(rows, device=scores_BM.device)
        losses_B = functional.cross_entropy(scores_BM.masked_fill(out_BM, -torch.inf), places_B, reduction="none")
        if not both:
            return losses_B
        out_BB = alike_BB | (own_keys_B < 0)
        out_BB.fill_diagonal_(False)
        backwards_BB = scores_BM[:, :rows].T.masked_fill(out_BB, -torch.inf)
        return (losses_B + functional.cross_entropy(backwards_BB, places_B, reduction="none")) / 2


def without_muted(keys: Tensor, weights_B: Tensor | None) -> Tensor:
    """The keys (B, ...) with `IGNORED` in rows of no weight, which must not serve as negatives of others."""
    if weights_B is None:
        return keys
    return keys.masked_fill((weights_B == 0).view(-1, *[1] * (keys.ndim - 1)), IGNORED)


def ranks_and_loss(queries_QD: Tensor, documents_MD: Tensor, pairs_P2: Tensor, *, scale: float) -> tuple[Tensor, float]:
    """(ranks, loss): the rank of each pair's document among all for its query, (P,) from 0; and the mean over pairs of
    -log softmax over all documents, the other right ones left out.

    Exact, in fp32. Of equal scores the document that comes first ranks first. `pairs_P2` holds places of queries, in
    ascending order, and of documents.
    """
    queries_QD, documents_MD = (functional.normalize(part.float(), dim=-1) for part in (queries_QD, documents_MD))
    order_M = torch.arange(len(documents_MD))
    ranks, losses = [], []
    for pairs_R2 in pairs_P2.split(_ROWS):
        asked_R, documents_R = pairs_R2.unbind(1)
        scores_RM = queries_QD[asked_R] @ documents_MD.T
        own_R1 = scores_RM.gather(1, documents_R[:, None])
        before_RM = (scores_RM > own_R1) | ((scores_RM == own_R1) & (order_M < documents_R[:, None]))
        ranks.append(before_RM.sum(1))
        others_P = pairs_P2[torch.isin(pairs_P2[:, 0], asked_R)]
        rows, places = (asked_R[:, None] == others_P[:, 0]).nonzero().unbind(1)
        others = others_P[places, 1]
        kept = others != documents_R[rows]
        scores_RM[rows[kept], others[kept]] = -torch.inf
        losses.append(torch.logsumexp(scale * scores_RM.double(), 1) - scale * own_R1[:, 0].double())
    return torch.cat(ranks), float(torch.cat(losses).mean())


def ranking_scores(ranks: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
    """Recall at 1, 10 and 100, NDCG and MRR at 10 of each query, from the ranks (from 0) of all that is right for it.

    Recall@k: the share of the right documents among the first k. NDCG@10 = Σ 1/log2(rank + 2) over the best possible
    such sum (Järvelin and Kekäläinen 2002, with gains of 0 and 1). MRR@10: 1/(rank + 1) of the first that is right.
    """
    discounts = 1.0 / np.log2(np.arange(DEPTH) + 2.0)
    scores: dict[str, list[float]] = {f"recall@{k}": [] for k in CUTS}
    scores |= {f"ndcg@{DEPTH}": [], f"mrr@{DEPTH}": []}
    for found in ranks:
        for k in CUTS:
            scores[f"recall@{k}"].append(float((found < k).mean()))
        gain = discounts[found[found < DEPTH]].sum()
        scores[f"ndcg@{DEPTH}"].append(float(gain / discounts[: len(found)].sum()))
        first = int(found.min())
        scores[f"mrr@{DEPTH}"].append(1.0 / (first + 1) if first < DEPTH else 0.0)
    return {name: np.array(values) for name, values in scores.items()}
