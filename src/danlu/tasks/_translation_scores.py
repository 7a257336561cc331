"""Scores of translations by sacrebleu: a corpus, sentence by sentence, and two systems against each other."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from danlu.core.extras import need

Tokenize = Literal["auto", "13a", "zh", "char", "intl", "none"]
SCORES = ("bleu", "chrf", "chrf_pp", "ter")
SLICES = ("short", "medium", "long")
SHOWN = 6
SHOWN_CHARACTERS = 300
RESAMPLES = 1000

_HAN, _KANA = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]"), re.compile(r"[\u3040-\u30ff]")


class Translated(NamedTuple):
    """One row that was translated; `row` is its number in the data, `num_tokens` the length of its source."""

    row: int
    num_tokens: int
    source: str
    text: str
    reference: str


def need_sacrebleu() -> Any:
    """Its metrics; a RequestError names what to install where it is missing."""
    return need("sacrebleu.metrics", extra="translation", what="the score of a translation")


def scorers(references: Sequence[str], tokenize: Tokenize) -> dict[str, Any]:
    """BLEU, chrF2, chrF2++ and TER; `auto` cuts Chinese and Japanese into characters, the rest as mteval-13a."""
    metrics = need_sacrebleu()
    chosen = _fitting("".join(references)) if tokenize == "auto" else tokenize
    asian = chosen in ("zh", "char")
    return {
        "bleu": metrics.BLEU(tokenize=chosen),
        "chrf": metrics.CHRF(),
        "chrf_pp": metrics.CHRF(word_order=2),
        "ter": metrics.TER(normalized=asian, asian_support=asian),
    }


def corpus_scores(rows: Sequence[Translated], tokenize: Tokenize) -> dict[str, float]:
    """Each of `SCORES` over the whole corpus, in percent."""
    texts, references = [row.text for row in rows], [row.reference for row in rows]
    found = scorers(references, tokenize)
    return {name: float(metric.corpus_score(texts, [references]).score) for name, metric in found.items()}


def signatures(rows: Sequence[Translated], tokenize: Tokenize) -> dict[str, str]:
    """How each score was made, in sacrebleu's own words, so that others can make it again."""
    texts, references = [row.text for row in rows], [row.reference for row in rows]
    found = scorers(references, tokenize)
    for metric in found.values():
        metric.corpus_score(texts[:1], [references[:1]])
    return {name: str(metric.get_signature()) for name, metric in found.items()}


def translation_tables(rows: Sequence[Translated], tokenize: Tokenize) -> dict[str, object]:
    """`slices` (scores by length of the source), `translations` (the worst and the best by chrF), `signatures`."""
    chrf = scorers([], "13a")["chrf"]
    scored = sorted(((chrf.sentence_score(row.text, [row.reference]).score, row) for row in rows), key=_by_score)
    worst = scored[: min(SHOWN, len(rows) // 2 or 1)]
    best = scored[::-1][: min(SHOWN, len(rows) - len(worst))]
    return {
        "slices": _slices(rows, tokenize),
        "translations": {"worst": [_shown(*pair) for pair in worst], "best": [_shown(*pair) for pair in best]},
        "signatures": signatures(rows, tokenize),
    }


def paired_bootstrap(
    ours: Sequence[Translated], theirs: Sequence[Translated], tokenize: Tokenize
) -> dict[str, Mapping[str, float]]:
    """Of each score ours and theirs, half the width of the 95 % interval of both, and p, from 1,000 resamples.

    p is the chance of so large a difference where both systems are equally good. Source: Koehn 2004; the numbers are
    sacrebleu's, seeded with 12345, but for equal scores, whose p is 1. The rows must be the same on both sides.
    """
    significance = need("sacrebleu.significance", extra="translation", what="the comparison")
    references = [row.reference for row in ours]
    metrics = scorers(references, tokenize)
    systems = [("theirs", [row.text for row in theirs]), ("ours", [row.text for row in ours])]
    test = significance.PairedTest(systems, metrics, [references], test_type="bs", n_samples=RESAMPLES)
    found: dict[str, Mapping[str, float]] = {}
    for name, column in zip(metrics, list(test()[1].values())[1:], strict=True):
        base, own = cast(Sequence[Any], column)
        p = 1.0 if own.score == base.score else float(own.p_value)
        scored = {"ours": own.score, "theirs": base.score, "ours_ci": own.ci, "theirs_ci": base.ci}
        found[name] = {**{side: float(value) for side, value in scored.items()}, "p": p}
    return found


def _fitting(text: str) -> str:
    num_han = len(_HAN.findall(text))
    if _KANA.search(text) and num_han:
        return "char"
    return "zh" if num_han > sum(map(str.isalpha, text)) / 2 else "13a"


def _slices(rows: Sequence[Translated], tokenize: Tokenize) -> dict[str, object]:
    """Three parts of about equal size, by the length of the source in tokens."""
    metrics = scorers([row.reference for row in rows], tokenize)
    lengths = np.array([row.num_tokens for row in rows])
    bounds = [0, *np.quantile(lengths, [1 / 3, 2 / 3]).astype(int).tolist(), int(lengths.max())]
    table = []
    for name, above, to in zip(SLICES, bounds, bounds[1:], strict=False):
        part = [row for row in rows if above < row.num_tokens <= to]
        if part:
            texts, references = [row.text for row in part], [row.reference for row in part]
            scores = [float(metrics[name].corpus_score(texts, [references]).score) for name in ("chrf", "bleu")]
            table.append([f"{name}, to {to} tokens", len(part), *scores])
    return {"columns": ["length of the source", "rows", "chrf", "bleu"], "rows": table}


def _by_score(pair: tuple[float, Translated]) -> tuple[float, int]:
    return pair[0], pair[1].row


def _shown(score: float, row: Translated) -> dict[str, object]:
    parts = {"source": row.source, "text": row.text, "reference": row.reference}
    return {"row": row.row, "chrf": score, **{name: text[:SHOWN_CHARACTERS] for name, text in parts.items()}}
