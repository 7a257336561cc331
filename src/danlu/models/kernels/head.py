"""The language-model head and its cross-entropy in one: the full logits never exist.

    loss = sum_n w_n [(1 - e) focal(lse_n - x_n,y) + e (lse_n - mean_v x_n,v)],   x = H W^T + b
    dloss/dx_nv = w_n [(1 - e) focal' (softmax(x_n)_v - 1(v = y_n)) + e (softmax(x_n)_v - 1 / V)]

with focal(l) = (1 - exp(-l))^c l (`maths.losses.focal`), which is l for c = 0.

The gradient is made in the forward pass, where the logits are at hand, chunk by chunk in one buffer that is kept
(the idea of Liger Kernel's fused linear cross-entropy, Hsu et al. 2024, arXiv:2410.10989, section 3.2); the backward
pass only scales it. Not for uses that need second derivatives, nor where the logits are read anyway.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from danlu.core.errors import RequestError
from danlu.maths.losses import focal, focal_slope
from danlu.models.kernels import build
from danlu.models.kernels.scratch import scratch

CHUNK_ROWS = 1024
# 64 MiB of bf16 logits: past the caches anyway, and still enough rows to keep the matrix products at full rate.
CHUNK_ELEMENTS = 2**25

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class _Options:
    ignore_index: int
    label_smoothing: float
    focal_gamma: float
    dtype: torch.dtype
    wanted: tuple[bool, bool, bool]  # hidden, weight, bias


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    weights_N: Tensor | None = None,
    return_rows: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The SUM over labelled rows of the cross-entropy of `hidden @ weight.T + bias`, as an fp32 scalar.

    Shapes: hidden (N, D), weight (V, D), bias (V), labels (N) of whole numbers, weights (N) of row weights, without
    gradient. With `return_rows` also the plain cross-entropy of each row (no weight, no smoothing, no focus), fp32 (N),
    detached, zero where there is no label.

    Runs in the type of autocast where that is on, else in the type of `hidden`; sums, softmax and the weight's
    gradient are fp32 (fp64 for fp64 inputs). Cost: rows with a label only; 3 matrix products of 2NDV each, the one of
    a frozen weight left out; memory: one chunk of logits (64 MiB in bf16) and the gradients. Same bits at each run.

    Raises: RequestError when a label is neither in [0, V) nor `ignore_index`.
    """
    wanted = tuple(
        torch.is_grad_enabled() and tensor is not None and tensor.requires_grad
        for tensor in (hidden_ND, weight_VD, bias_V)
    )
    options = _Options(
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        focal_gamma=focal_gamma,
        dtype=_compute_type(hidden_ND),
        wanted=(wanted[0], wanted[1], wanted[2]),
    )
    weights_N = None if weights_N is None else weights_N.detach()
    loss, plain_N = _LinearCrossEntropy.apply(hidden_ND, weight_VD, bias_V, labels_N, weights_N, options)
    return (loss, plain_N) if return_rows else loss


def _compute_type(hidden_ND: Tensor) -> torch.dtype:
    device = hidden_ND.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        weights_N: Tensor | None,
        options: _Options,
    ) -> tuple[Tensor, Tensor]:
        loss, plain_N, ctx.gradients = _run(hidden_ND, weight_VD, bias_V, labels_N, weights_N, options)
        ctx.options = options
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, weights_N)
        ctx.mark_non_differentiable(plain_N)
        ctx.set_materialize_grads(False)
        return loss, plain_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        # They are scaled in place, so they can be given out once: a second pass over the same graph makes them anew.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            hidden_ND, weight_VD, bias_V, labels_N, weights_N = ctx.saved_tensors
            gradients = _run(hidden_ND, weight_VD, bias_V, labels_N, weights_N, ctx.options)[2]
        factor = grad.item() if grad.device.type == "cpu" else grad
        if not (isinstance(factor, float) and factor == 1.0):
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(factor)
        return (*gradients, None, None, None)


def _run(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    weights_N: Tensor | None,
    options: _Options,
) -> tuple[Tensor, Tensor, Gradients]:
    rows_n = _labelled_rows(labels_N, weight_VD.shape[0], options.ignore_index)
    with torch.no_grad(), torch.autocast(hidden_ND.device.type, enabled=False):
        pass_ = _Pass(hidden_ND, weight_VD, bias_V, options)
        if rows_n is None:
            losses_N, plain_N = pass_.losses(hidden_ND, labels_N, weights_N)
            return losses_N.sum(), plain_N, pass_.gradients(None)
        weights_n = None if weights_N is None else weights_N[rows_n]
        losses_n, plain_n = pass_.losses(hidden_ND[rows_n], labels_N[rows_n], weights_n)
        plain_N = plain_n.new_zeros(labels_N.shape[0]).index_copy_(0, rows_n, plain_n)
        return losses_n.sum(), plain_N, pass_.gradients(rows_n)


def _labelled_rows(labels_N: Tensor, num_classes: int, ignore_index: int) -> Tensor | None:
    valid_N = labels_N != ignore_index
    if labels_N.device.type == "cpu":
        # The kernel reads at the label without looking; on an accelerator torch's own gather checks it.
        wrong_N = valid_N & ((labels_N < 0) | (labels_N >= num_classes))
        if wrong_N.any():
            first = int(wrong_N.nonzero()[0])
            raise RequestError(
                f"label {int(labels_N[first])} is not one of the {num_classes} classes",
                where=f"row {first} of the labels",
                mend=f"Use 0 to {num_classes - 1}, or {ignore_index} for no label",
            )
    return None if bool(valid_N.all()) else valid_N.nonzero().squeeze(1)


class _Pass:
    """One pass over the rows: the losses, and on the way the gradients that are wanted."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, options: _Options) -> None:
        self.like = (hidden_ND, weight_VD, bias_V)
        self.options = options
        self.weight_VD = weight_VD.to(options.dtype)
        self.bias_V = None if bias_V is None else bias_V.to(options.dtype)
        self.sums = torch.float64 if options.dtype == torch.float64 else torch.float32
        self.grad_hidden_nD: Tensor | None = None
        self.grad_weight_VD: Tensor | None = None
        self.grad_bias_V = torch.zeros_like(bias_V, dtype=self.sums) if bias_V is not None else None

    def losses(self, hidden_nD: Tensor, labels_n: Tensor, weights_n: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is to be summed, and the plain cross-entropy, of each row."""
        num_rows, num_classes = hidden_nD.shape[0], self.weight_VD.shape[0]
        losses_n, plain_n = hidden_nD.new_empty(2, num_rows, dtype=self.sums)
        if self.options.wanted[0]:
            self.grad_hidden_nD = hidden_nD.new_empty(hidden_nD.shape, dtype=self.options.dtype)
        step = max(1, min(CHUNK_ROWS, CHUNK_ELEMENTS // num_classes))
        shape = (min(step, num_rows), num_classes)
        buffer_cV = scratch("logits", shape, self.options.dtype, hidden_nD.device)
        for start in range(0, num_rows, step):
            part = slice(start, min(start + step, num_rows))
            logits_cV = buffer_cV[: part.stop - start]
            hidden_cD = hidden_nD[part].to(self.options.dtype)
            self._logits(hidden_cD, logits_cV)
            weights_c = None if weights_n is None else weights_n[part]
            losses_n[part], plain_n[part] = _rows(logits_cV, labels_n[part], weights_c, self.options)
            self._accumulate(hidden_cD, logits_cV, part)
        return losses_n, plain_n

    def _logits(self, hidden_cD: Tensor, logits_cV: Tensor) -> None:
        if self.bias_V is None:
            torch.mm(hidden_cD, self.weight_VD.t(), out=logits_cV)
        else:
            torch.addmm(self.bias_V, hidden_cD, self.weight_VD.t(), out=logits_cV)

    def _accumulate(self, hidden_cD: Tensor, grad_cV: Tensor, part: slice) -> None:
        wants_hidden, wants_weight, wants_bias = self.options.wanted
        if wants_hidden and self.grad_hidden_nD is not None:
            torch.mm(grad_cV, self.weight_VD, out=self.grad_hidden_nD[part])
        if wants_bias and self.grad_bias_V is not None:
            self.grad_bias_V += grad_cV.sum(0, dtype=self.sums)
        if not wants_weight:
            return
        if self.grad_weight_VD is None:
            # The first product is the sum so far, which spares one pass over a matrix of zeros.
            self.grad_weight_VD = torch.mm(grad_cV.t(), hidden_cD).to(self.sums)
        elif self.options.dtype == self.sums:
            self.grad_weight_VD.addmm_(grad_cV.t(), hidden_cD)
        else:
            product_VD = scratch("product", tuple(self.weight_VD.shape), self.options.dtype, grad_cV.device)
            self.grad_weight_VD.add_(torch.mm(grad_cV.t(), hidden_cD, out=product_VD))

    def gradients(self, rows_n: Tensor | None) -> Gradients:
        hidden_ND, weight_VD, bias_V = self.like
        wants_hidden, wants_weight, wants_bias = self.options.wanted
        grad_hidden = grad_weight = grad_bias = None
        if wants_hidden and self.grad_hidden_nD is not None:
            grad_hidden = self.grad_hidden_nD.to(hidden_ND.dtype)
            if rows_n is not None:
                grad_hidden = torch.zeros_like(hidden_ND).index_copy_(0, rows_n, grad_hidden)
        if wants_weight:
            found = self.grad_weight_VD
            grad_weight = torch.zeros_like(weight_VD) if found is None else found.to(weight_VD.dtype)
        if wants_bias and bias_V is not None and self.grad_bias_V is not None:
            grad_bias = self.grad_bias_V.to(bias_V.dtype)
        return grad_hidden, grad_weight, grad_bias


def _rows(logits_cV: Tensor, labels_c: Tensor, weights_c: Tensor | None, options: _Options) -> tuple[Tensor, Tensor]:
    kinds = {torch.float32: "f32", torch.bfloat16: "bf16"}
    library = build.library() if logits_cV.device.type == "cpu" and logits_cV.dtype in kinds else None
    if library is None:
        return _rows_torch(logits_cV, labels_c, weights_c, options)
    labels_c = labels_c.to(torch.int64).contiguous()
    weights_c = None if weights_c is None else weights_c.to(torch.float32).contiguous()
    losses_c, plain_c = torch.empty(2, labels_c.shape[0], dtype=torch.float32)
    getattr(library, f"cross_entropy_{kinds[logits_cV.dtype]}")(
        logits_cV.data_ptr(),
        logits_cV.shape[0],
        logits_cV.shape[1],
        labels_c.data_ptr(),
        None if weights_c is None else ctypes.c_void_p(weights_c.data_ptr()),
        options.label_smoothing,
        options.focal_gamma,
        any(options.wanted),
        losses_c.data_ptr(),
        plain_c.data_ptr(),
        torch.get_num_threads(),
    )
    return losses_c, plain_c


def _rows_torch(
    logits_cV: Tensor, labels_c: Tensor, weights_c: Tensor | None, options: _Options
) -> tuple[Tensor, Tensor]:
    smoothing, gamma, num_classes = options.label_smoothing, options.focal_gamma, logits_cV.shape[1]
    sums = torch.float64 if logits_cV.dtype == torch.float64 else torch.float32
    logp_cV = functional.log_softmax(logits_cV, dim=-1, dtype=sums)
    labels_c1 = labels_c.to(torch.int64)[:, None]
    plain_c = -logp_cV.gather(1, labels_c1).squeeze(1)
    focused_c, slope_c = (focal(plain_c, gamma), focal_slope(plain_c, gamma)) if gamma > 0 else (plain_c, None)
    losses_c = (1 - smoothing) * focused_c
    if smoothing > 0:
        losses_c = losses_c - smoothing * logp_cV.mean(-1)
    if any(options.wanted):
        grad_cV = logp_cV.exp_()
        at_label_c1 = grad_cV.new_full(labels_c1.shape, smoothing - 1)
        if slope_c is not None:
            grad_cV.mul_((slope_c + smoothing * (1 - slope_c))[:, None])
            at_label_c1 *= slope_c[:, None]
        grad_cV.scatter_add_(1, labels_c1, at_label_c1)
        if smoothing > 0:
            grad_cV.sub_(smoothing / num_classes)
        if weights_c is not None:
            grad_cV.mul_(weights_c.to(sums)[:, None])
        logits_cV.copy_(grad_cV)
    return losses_c if weights_c is None else losses_c * weights_c.to(sums), plain_c
