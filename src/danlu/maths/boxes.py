"""Boxes: their forms, their overlap, and which of them to keep. A box is x1, y1, x2, y2 unless another form is said."""

import torch
from torch import Tensor


def corners_of(boxes_4: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height → corners."""
    centre, size = boxes_4[..., :2], boxes_4[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def centres_of(boxes_4: Tensor) -> Tensor:
    """(..., 4) corners → centre x, centre y, width, height."""
    first, second = boxes_4[..., :2], boxes_4[..., 2:]
    return torch.cat([(first + second) / 2, second - first], -1)


def areas_of(boxes_4: Tensor) -> Tensor:
    """(...) the areas of boxes (..., 4); a box turned inside out has none."""
    return (boxes_4[..., 2:] - boxes_4[..., :2]).clamp(min=0).prod(-1)


def iou(one_4: Tensor, two_4: Tensor) -> Tensor:
    """Intersection over union of boxes that stand against each other; shapes (..., 4) are broadcast. 0 for empty."""
    inside, union = _overlap(one_4, two_4)
    return inside / union.clamp(min=torch.finfo(union.dtype).tiny)


def giou(one_4: Tensor, two_4: Tensor) -> Tensor:
    """Generalised IoU, in [-1, 1]: IoU - (hull - union) / hull (Rezatofighi et al. 2019, algorithm 1)."""
    inside, union = _overlap(one_4, two_4)
    tiny = torch.finfo(union.dtype).tiny
    first = torch.minimum(one_4[..., :2], two_4[..., :2])
    hull = (torch.maximum(one_4[..., 2:], two_4[..., 2:]) - first).clamp(min=0).prod(-1)
    return inside / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def kept_by_nms(boxes_N4: Tensor, classes_N: Tensor, limit: float) -> Tensor:
    """Which boxes, sorted by falling score, are left when each strikes out those of its class that overlap it by more
    than `limit` (greedy non-maximum suppression); (N,) bool."""
    strikes_NN = (iou(boxes_N4[:, None], boxes_N4[None]) > limit) & (classes_N[:, None] == classes_N[None])
    strikes, kept = strikes_NN.triu(1).numpy(force=True), torch.ones(len(boxes_N4), dtype=torch.bool)
    left = kept.numpy()  # shares its memory
    for at in range(len(left)):
        if left[at]:
            left[strikes[at]] = False
    return kept.to(boxes_N4.device)


def _overlap(one_4: Tensor, two_4: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    first = torch.maximum(one_4[..., :2], two_4[..., :2])
    second = torch.minimum(one_4[..., 2:], two_4[..., 2:])
    inside = (second - first).clamp(min=0).prod(-1)
    return inside, areas_of(one_4) + areas_of(two_4) - inside
