"""How large a model is, what a token costs, and how much memory training takes, from sizes alone."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedConfig

from danlu.models.quantise import num_quantised, quantised_layers

HEAD_ROWS = 1024
"""rows of logits that the fused head keeps at once"""

_USUAL_SIDE = 224
_MLP_PARTS = {"silu": 4, "swish": 4, "gelu_new": 5, "gelu_pytorch_tanh": 4}
"""tensors as wide as the feed-forward part that are kept for the backward pass, by activation; 3 for others"""


def num_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Weights of the model, a shared one counted once; with `trainable` only those that are trained."""
    counted = sum(weight.numel() for weight in model.parameters() if weight.requires_grad or not trainable)
    return counted if trainable else counted + num_quantised(model)


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters by what they are for, told by their names; the largest first."""
    words = {
        "attention": ("attn", "attention"),
        "feed-forward": ("mlp", "ffn", "feed_forward", "fc1", "fc2", "intermediate", "expert"),
        "embedding": ("emb", "wte", "wpe", "shared"),
        "norms": ("norm", "ln_", "ln."),
        "head": ("lm_head", "classifier", "score"),
    }
    found: dict[str, int] = {}
    for name, weight in model.named_parameters():
        part = next((part for part, hints in words.items() if any(hint in name for hint in hints)), "other")
        part = "norms" if weight.ndim == 1 and "norm" in name else part
        found[part] = found.get(part, 0) + weight.numel()
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def flops_per_token(model: nn.Module, context: int) -> float:
    """Floating-point operations of a forward and backward pass for one token.

    6N + 12 L H E T: Kaplan et al. 2020, section 2.1, with the attention term of PaLM (Chowdhery et al. 2022,
    appendix B). N counts the weights that a token is multiplied with: the head, but no embedding that is only looked
    up, and of a mixture's experts those that a token visits. A frozen weight costs 4 instead of 6, since its own
    gradient is not taken. Attention is counted over the whole context (or window), as is usual, although half of it
    is masked; work done twice (recomputed activations) is not counted.

    For a model that reads pictures, whose weights are used at many places, what one forward pass multiplies is counted,
    taken three times and shared out among the `context` tokens that a picture counts as.
    """
    config = model.config
    assert isinstance(config, PreTrainedConfig)
    if getattr(model, "main_input_name", "") == "pixel_values":
        return 3.0 * _flops_per_image(model) / context
    share = _share_of_experts(config)
    products = 4.0 * num_quantised(model)
    for name, weight in _multiplied(model):
        used = share if ".experts." in f".{name}." and "shared" not in name else 1.0
        products += weight.numel() * used * (6.0 if weight.requires_grad else 4.0)
    sizes = _Sizes.of(config)
    return products + 12.0 * sizes.layers * sizes.inner * min(context, sizes.window or context)


def _flops_per_image(model: nn.Module) -> float:
    """Of the products of one forward pass, without gradients, on a picture of the size that the config names."""
    from torch.utils.flop_counter import FlopCounterMode

    side = getattr(model.config, "image_size", None) or _USUAL_SIDE
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    weight = next(model.parameters())
    pixels_BCHW = torch.zeros(1, getattr(model.config, "num_channels", 3), height, width, device=weight.device)
    was_training, counter = model.training, FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model.eval()(pixel_values=pixels_BCHW.to(weight.dtype))
    finally:
        model.train(was_training)
    return float(counter.get_total_flops())


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that training takes at its height, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def memory_estimate(
    model: nn.Module,
    *,
    context: int,
    rows: int,
    precision: str = "fp32",
    state_per_weight: float = 2.0,
    fused_head: bool = True,
    recompute: bool = False,
) -> MemoryEstimate:
    """What one process needs for micro-batches of `rows` rows of `context` tokens.

    Activations follow Korthikanti et al. 2022, equation 1, counted for the layers of today: a layer keeps about
    4D numbers in fp32 (norms and residuals) and 2D + 2HE + 2KE + 4M (3M without a gate) in the running precision;
    in a low precision a copy of every multiplied weight too. Attention matrices only count with eager attention.
    `state_per_weight` is the optimiser's (AdamW: 2); with `recompute` (activation checkpointing) only each layer's
    input is kept, and one layer whole.
    """
    config = model.config
    assert isinstance(config, PreTrainedConfig)
    sizes, width = _Sizes.of(config), 4 if precision == "fp32" else 2
    trainable = num_parameters(model, trainable=True)
    held = [*model.parameters(), *(buffer for layer in quantised_layers(model) for buffer in layer.buffers())]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in held)
    tokens = rows * context
    layer = 16 * sizes.width + width * (
        2 * sizes.width + 2 * sizes.inner + 2 * sizes.keys + sizes.mlp_parts * sizes.mlp
    )
    if getattr(config, "_attn_implementation", None) == "eager":
        layer += 2 * 4 * sizes.heads * context
    kept = (4 * sizes.width * sizes.layers + layer) if recompute else layer * sizes.layers
    copies = sum(weight.numel() for _, weight in _multiplied(model) if weight.element_size() > width) * width
    logits = min(tokens, HEAD_ROWS) * width if fused_head else tokens * (8 + width)
    return MemoryEstimate(
        weights=weights,
        gradients=trainable * 4,
        optimizer=round(trainable * 4 * state_per_weight),
        activations=tokens * kept + copies,
        logits=logits * (getattr(config, "vocab_size", None) or 0),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    """The sizes of a Transformer, whatever its config calls them; zero where it has none."""

    layers: int
    width: int
    heads: int
    inner: int
    keys: int
    mlp: int
    mlp_parts: int
    window: int | None

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "_Sizes":
        def first(*names: str) -> int:
            return next((value for name in names if isinstance(value := getattr(config, name, None), int)), 0)

        width, heads = first("hidden_size", "d_model"), first("num_attention_heads")
        head_dim = first("head_dim", "d_kv") or (width // heads if heads else 0)
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        mlp = first(
            "intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "encoder_ffn_dim", "hidden_dim"
        )
        activation = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
        layers = first("num_hidden_layers")
        if config.is_encoder_decoder:
            layers += first("decoder_layers", "num_decoder_layers")
        return cls(
            layers=layers,
            width=width,
            heads=heads,
            inner=heads * head_dim,
            keys=(first("num_key_value_heads") or heads) * head_dim,
            mlp=mlp or 4 * width,
            mlp_parts=_MLP_PARTS.get(str(activation), 3),
            window=window if isinstance(window, int) else None,
        )


def _multiplied(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights with two axes or more that take part in products; embeddings only where they are the head too."""
    ask = getattr(model, "get_output_embeddings", None)
    head = ask() if callable(ask) else None
    heads = {id(weight) for weight in head.parameters()} if isinstance(head, nn.Module) else set()
    looked_up = {
        id(weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
    }
    for name, weight in model.named_parameters():
        if weight.ndim >= 2 and (id(weight) in heads or id(weight) not in looked_up):
            yield name, weight


def _share_of_experts(config: PreTrainedConfig) -> float:
    """The share of a mixture's experts that one token visits; 1 where there are none."""
    visited = getattr(config, "num_experts_per_tok", None)
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((value for name in names if (value := getattr(config, name, None))), None)
    return visited / experts if visited and experts else 1.0
