"""The loss of transformers' detectors as a sum over objects, which is what micro-batches and processes can add up.

A detector of transformers computes its loss inside its forward, from the `labels` given there, and divides it by the
number of objects in what it was given. `sum_losses` makes a model give the sum instead: the loss of each picture times
its number of objects (at least 1) and its weight.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from danlu.core.errors import RequestError

SUMS = ("dense_detector_loss", "RTDetrForObjectDetectionLoss", "DeformableDetrForObjectDetectionLoss")
"""Losses that are a sum over all pictures divided by the number of objects, so that one call serves a whole batch.
Others (those of DETR and YOLOS average over queries, D-FINE's over the matched ones) are called picture by picture."""
_MEETS = "loss_lw_detr"


def sum_losses(model: nn.Module) -> None:
    """Makes the forward of `model` give the sum; a second call changes nothing.

    Raises:
        RequestError: the family's loss cannot be made to, on several processes.
    """
    unwrap = getattr(model, "get_base_model", None)  # of peft
    inner: Any = unwrap() if callable(unwrap) else model
    if inner.loss_function.__module__.endswith(_MEETS) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        problem = f"the loss of {inner.config.model_type} divides by the objects of all processes at each picture"
        raise RequestError(problem, where="model", mend="Train it on one process, or take an RT-DETR")
    if not isinstance(inner.loss_function, SummedLoss):
        inner.loss_function = SummedLoss(inner.loss_function)


class SummedLoss:
    """Stands in the place of a detector's loss function; each entry of `labels` may have a `weight`."""

    def __init__(self, mean: Callable[..., tuple[Tensor, Any, Any]]) -> None:
        self.mean = mean
        self.whole = getattr(mean, "__name__", "") in SUMS

    def __call__(
        self,
        logits: Tensor,
        labels: Sequence[Mapping[str, Tensor]],
        device: torch.device,
        pred_boxes: Tensor,
        config: Any,
        outputs_class: Tensor | None = None,
        outputs_coord: Tensor | None = None,
        enc_outputs_class: Tensor | None = None,
        enc_outputs_coord: Tensor | None = None,
        **more: Any,
    ) -> tuple[Tensor, dict[str, Tensor], None]:
        """(sum, no terms, None); in fp32 whatever the model runs in."""
        several = {"outputs_class": outputs_class, "outputs_coord": outputs_coord} if outputs_coord is not None else {}
        if enc_outputs_class is not None:
            more |= {"enc_outputs_class": enc_outputs_class, "enc_outputs_coord": enc_outputs_coord}
        by_layer = isinstance(outputs_coord, Tensor) and _layers_first(outputs_coord, pred_boxes)
        weights = [float(entry["weight"]) if "weight" in entry else 1.0 for entry in labels]
        total = 0.0 * (logits.float().sum() + pred_boxes.float().sum())
        with torch.autocast(logits.device.type, enabled=False):
            alike = self.whole and len(set(weights)) == 1
            for rows in [slice(None)] if alike else [slice(at, at + 1) for at in range(len(labels))]:
                chosen, weight = list(labels[rows]), weights[rows][0]
                if weight == 0:
                    continue
                scores, boxes = (_rows(value, rows, len(labels)) for value in (logits, pred_boxes))
                part = {name: _rows(value, rows, len(labels)) for name, value in more.items()}
                part |= {name: _rows(value, rows, len(labels), by_layer) for name, value in several.items()}
                loss, *_ = self.mean(scores, chosen, device, boxes, config, **part)
                total = total + loss * weight * max(1, sum(len(entry["boxes"]) for entry in chosen))
        return total, {}, None


def _layers_first(outputs_coord: Tensor, pred_boxes: Tensor) -> bool:
    """Some families stack the decoder's layers before the pictures, some behind; the last layer's are `pred_boxes`."""
    last = outputs_coord[-1]
    return last.shape == pred_boxes.shape and bool(torch.equal(last, pred_boxes))


def _rows(value: Any, rows: slice, num_rows: int, by_layer: bool = False) -> Any:
    """Those pictures of whatever holds one entry for each of them, in fp32."""
    if isinstance(value, Tensor):
        value = value.float() if value.is_floating_point() else value
        if by_layer:
            return value[:, rows]
        return value[rows] if value.ndim and value.shape[0] == num_rows else value
    if isinstance(value, Mapping):  # of denoising: the places of each picture's queries, and sizes that all share
        return {name: entry[rows] if name == "dn_positive_idx" else entry for name, entry in value.items()}
    return value
