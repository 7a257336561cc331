"""What techniques that mix pictures share: each row's partner within the step's whole batch, and the loss of both."""

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from danlu.core.batch import Batch
from danlu.core.errors import RequestError
from danlu.core.outputs import Outputs
from danlu.core.seeds import seed_of
from danlu.core.technique import StepContext
from danlu.data.hashing import mix_many
from danlu.maths.losses import cross_entropies, weighted_sum
from danlu.techniques._pictures import pictures

CLASSES, SHARES = "mixed_classes", "mixed_shares"


class Partners(NamedTuple):
    """Of each row (B) its own picture and that of its partner, the partner's class, and how much of it is wanted."""

    own_BCHW: Tensor
    other_BCHW: Tensor
    classes_B: Tensor
    shares_B: Tensor


def partners(name: str, batch: Batch, ctx: StepContext, *, p: float, alpha: float) -> Partners | None:
    """Each row is given the next one in an order that depends on seed, step and examples, whichever process has it.

    The share 1 − λ, λ ~ Beta(α, α), is the row's own draw; zero for the share 1 − p of the rows. None without
    pictures.

    Raises:
        RequestError: the pictures have not one class each.
    """
    own_BCHW, classes_B = pictures(batch, ctx), batch.labels.get("classes")
    if own_BCHW is None:
        return None
    if not isinstance(classes_B, Tensor) or classes_B.ndim != 1:
        problem = "mixes pictures that have one class each"
        raise RequestError(f"{name} {problem}", where=f"techniques.{name}", mend="Remove it for this task")
    muted_B = batch.targets_B == 0
    ids_N, mine = ctx.gather(torch.where(muted_B, -1, batch.example_ids_B))
    all_NCHW, _ = ctx.gather(own_BCHW)
    all_N, _ = ctx.gather(classes_B)
    hashes_N = mix_many(ids_N.cpu().numpy().astype(np.uint64), seed_of(ctx.seed, name, "order", ctx.clock.step))
    order = [at for at in np.argsort(hashes_N, kind="stable").tolist() if ids_N[at] >= 0]
    other_N = torch.arange(len(ids_N))
    other_N[order] = torch.tensor([*order[1:], *order[:1]], dtype=torch.long)
    other_B = other_N[mine].to(own_BCHW.device)
    return Partners(own_BCHW, all_NCHW[other_B], all_N[other_B.to(all_N.device)], _shares(name, batch, ctx, p, alpha))


def _shares(name: str, batch: Batch, ctx: StepContext, p: float, alpha: float) -> Tensor:
    """(B,): 1 − λ, from the row's own draws."""
    seeds = [seed_of(ctx.seed, name, ctx.clock.step, example) for example in batch.example_ids_B.tolist()]
    rows = [np.random.default_rng(seed) for seed in seeds]
    return torch.tensor([row.beta(alpha, alpha) if row.random() < p else 0.0 for row in rows], dtype=torch.float32)


def mixed(batch: Batch, images_BCHW: Tensor, found: Partners, shares_B: Tensor) -> Batch:
    """The batch with mixed pictures, and what its loss must know of the partners."""
    labels = {**batch.labels, CLASSES: found.classes_B, SHARES: shares_B.to(images_BCHW.device)}
    return batch.replace(inputs={**batch.inputs, "pixel_values": images_BCHW}, labels=labels)


def loss_of_partners(name: str, outputs: Outputs, batch: Batch, ctx: StepContext) -> Mapping[str, Tensor]:
    """What turns CE(y) into λ CE(y) + (1 − λ) CE(y'): Σ (1 − λ) [CE(y') − CE(y)] over the weighted rows."""
    if CLASSES not in batch.labels:
        return {}
    own_B, other_B, shares_B = (cast(Tensor, batch.labels[key]) for key in ("classes", CLASSES, SHARES))
    logits_BC = outputs.logits.float()
    losses_2B = [
        cross_entropies(
            logits_BC,
            classes_B,
            label_smoothing=ctx.dial("label_smoothing", 0.0),
            focal_gamma=ctx.dial("focal_gamma", 0.0),
        )[0]
        for classes_B in (own_B, other_B)
    ]
    return {name: weighted_sum(shares_B * (losses_2B[1] - losses_2B[0]), batch.weights_B)}
