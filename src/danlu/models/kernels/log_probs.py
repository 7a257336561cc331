"""Log-probabilities of given tokens, with a gradient, and without the full logits."""

from typing import Any

import torch
from torch import Tensor

from danlu.core.outputs import Outputs
from danlu.models.kernels.head import linear_cross_entropy

IGNORED = -100


def token_log_probs(outputs: Outputs, labels_BT: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log p(label | text before) at every place, (B, T) in fp32; 0 where there is no label (-100).

    p is the softmax of the logits over `temperature`. Where the head is a plain linear layer, the logits are made chunk
    by chunk, and made again in the backward pass: one more matrix product for memory that does not grow with the
    vocabulary. Otherwise they are read where there is a label.
    """
    labels_N = labels_BT.flatten()
    if outputs.hidden is not None and outputs.head is not None and not outputs.has_logits:
        head = outputs.head
        hidden_ND = outputs.hidden.flatten(0, -2)
        if temperature != 1.0:  # h W^T / τ = (h / τ) W^T, but a bias does not share in that
            hidden_ND = hidden_ND / temperature
        bias_V = head.bias if head.bias is None or temperature == 1.0 else head.bias / temperature
        found: Tensor = _LogProbs.apply(hidden_ND, head.weight, bias_V, labels_N)  # type: ignore[no-untyped-call]
        return found.view(labels_BT.shape)
    places_n = (labels_N != IGNORED).nonzero().squeeze(1)
    logits_nV = outputs.logits.flatten(0, -2)[places_n].float() / temperature
    chosen_n = logits_nV.log_softmax(-1).gather(1, labels_N[places_n, None]).squeeze(1)
    return chosen_n.new_zeros(labels_N.shape).index_copy(0, places_n, chosen_n).view(labels_BT.shape)


class _LogProbs(torch.autograd.Function):
    """The backward pass is that of the cross-entropy whose rows weigh what is asked of each: d Σ g_n log p_n."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
        device = hidden_ND.device.type
        ctx.mixed = torch.is_autocast_enabled(device)
        ctx.dtype = torch.get_autocast_dtype(device)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N)
        _, losses_N = linear_cross_entropy(hidden_ND, weight_VD, labels_N, bias_V=bias_V, return_rows=True)
        return -losses_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        *given, labels_N = ctx.saved_tensors
        leaves = [
            None if tensor is None else tensor.detach().requires_grad_(wanted)
            for tensor, wanted in zip(given, ctx.needs_input_grad, strict=False)
        ]
        wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
        with torch.enable_grad(), torch.autocast(grad_N.device.type, dtype=ctx.dtype, enabled=ctx.mixed):
            hidden_ND, weight_VD, bias_V = leaves
            assert hidden_ND is not None
            assert weight_VD is not None
            loss = linear_cross_entropy(hidden_ND, weight_VD, labels_N, bias_V=bias_V, weights_N=-grad_N)
        found = iter(torch.autograd.grad(loss, wanted))
        return (*(next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves), None)
