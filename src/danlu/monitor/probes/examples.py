"""What the losses of single examples say of the data: wrong labels, odd inputs, rare classes."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from danlu.maths.two_groups import two_groups
from danlu.monitor.base import Facts, Probe, ProbeContext, Value
from danlu.monitor.examples import ExampleBook, robust_scores

_MOST_NAMED = 20_000
_FEWEST = 50
Ids = tuple[int, ...]


class Examples(Probe):
    """Follows every example over its visits; tells once a pass over the data, from the second on:

    * `examples_known`: how many there are so far; `class_ratio`, `label_entropy`, `num_classes`: of the labels of the
    examples seen (one label an example);
    * `low_share`, `low_p`, `high_p`: the examples parted in two by p̄ (Otsu 1979), p̄ being the mean over their visits
      after the first of p = exp(−loss), the probability that the model gives their label while it trains. Wrong labels
      gather in the low group, for a model learns them last (Pleiss et al. 2020, arXiv:2001.10528, with margins).
      The ids of the low group are noted as `low_p`, the least first;
    * `odd_share`: the share whose input is far larger than usual, or for texts whose mean loss is, with a gap between
      them and the others; ids as `odd`. Inputs twenty times as large as usual are told at once, as `wild`.

    Where a task does not tell the losses of rows, nothing is read. Cost: a few operations on (B,) tensors a step.
    """

    needs_row_losses: ClassVar[bool] = True

    most: int = Field(default=200_000, ge=1)
    """examples that are followed: those numbered below this"""

    def start(self) -> ExampleBook:
        return ExampleBook(self.most)

    def read(self, ctx: ProbeContext, kept: object) -> Mapping[str, Value]:
        if ctx.batch is not None and ctx.losses_B is not None:
            book = ctx.facts.memory["examples"]
            assert isinstance(book, ExampleBook)
            book.add(ctx.batch, ctx.losses_B)
        return {}

    def conclude(self, facts: Facts) -> tuple[Mapping[str, float], Mapping[str, Ids]]:
        book = facts.memory["examples"]
        assert isinstance(book, ExampleBook)
        known = book.seen
        fresh_4N = np.concatenate(facts.world.gather_objects(book.take()), axis=1)
        wild = _wild(book, known, fresh_4N)
        book.enter(fresh_4N)
        values: dict[str, float] = {"wild_examples": float(len(wild))} if wild else {}
        ids: dict[str, Ids] = {"wild": wild} if wild else {}
        if book.rows - book.told_rows >= len(book.seen) and len(book.seen) >= _FEWEST:
            book.told_rows = book.rows
            for numbers, named in (_of_labels(book), _of_groups(book), _of_odd_ones(book)):
                values.update(numbers)
                ids.update(named)
            values["examples_known"] = float(len(book.seen))
        return values, ids


def _wild(book: ExampleBook, known: np.ndarray, fresh_4N: np.ndarray) -> Ids:
    """Ids of rows whose input is twenty times as large as those before, and far outside their spread."""
    if len(known) < _FEWEST or not fresh_4N.shape[1]:
        return ()
    usual = book.column("odd", known)
    middle = float(np.median(usual))
    bound = max(middle + np.log(20.0), float(usual.max()) + np.log(3.0) if len(usual) else 0.0)
    return tuple(dict.fromkeys(int(at) for at in fresh_4N[0, fresh_4N[3] > bound]))


def _of_labels(book: ExampleBook) -> tuple[dict[str, float], dict[str, Ids]]:
    labels = book.column("label", book.seen)
    if len(labels) == 0 or labels.min() < 0:
        return {}, {}
    counts = np.bincount(labels)
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    ratio = float(shares.max() / shares.min())
    return {"class_ratio": ratio, "label_entropy": entropy, "num_classes": float(len(shares))}, {}


def _of_groups(book: ExampleBook) -> tuple[dict[str, float], dict[str, Ids]]:
    again = book.again(2)
    if len(again) < max(_FEWEST, 0.8 * len(book.seen)):
        return {}, {}
    chances = book.mean("p", again)
    groups = two_groups(chances)
    order = again[np.argsort(chances, kind="stable")]
    named = order[: round(groups.low_share * len(order))][:_MOST_NAMED]
    values = {"low_share": groups.low_share, "low_p": groups.low_mean, "high_p": groups.high_mean}
    return values, {"low_p": tuple(int(at) for at in named)}


def _of_odd_ones(book: ExampleBook, *, far: float = 5.0, most: float = 0.2) -> tuple[dict[str, float], dict[str, Ids]]:
    """Those beyond `far` spreads, where the stretch before that is nearly empty and their loss is larger too."""
    again = book.again(1)
    if len(again) < max(_FEWEST, 0.8 * len(book.seen)):
        return {}, {}
    losses, odd = book.mean("loss", again), book.column("odd", again)
    by_loss = book.column("label", again).max() < 0 and float(np.ptp(odd)) == 0
    scores = robust_scores(losses, floor=0.02) if by_loss else robust_scores(odd, floor=0.05)
    out, near = scores > far, (scores > 0.6 * far) & (scores <= far)
    if not 3 <= out.sum() <= most * len(again) or near.sum() > out.sum() / 4:
        return {}, {}
    if losses[out].mean() < 1.2 * losses[~out].mean():
        return {}, {}
    named = again[out][np.argsort(-scores[out], kind="stable")][:_MOST_NAMED]
    return {"odd_share": float(out.mean())}, {"odd": tuple(int(at) for at in named)}
