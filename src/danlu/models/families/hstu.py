"""HSTU: a decoder whose attention is gated and needs no softmax, made for long histories of a person's choices.

    U, V, Q, K = split(silu(W₁ norm(x)))
    A = silu(Q Kᵀ / √E + p[t − s] + q[b(time_t − time_s)]) / T          for s ≤ t, else 0
    x ← x + W₂ (norm(A V) ⊙ U)

Zhai et al. 2024, "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations" (arXiv:2402.17152), equations 1 to 3; p and q are its relative attention bias rab of place and time,
here with a number for each head, and b(Δ) = min(⌊ln(1 + Δ) / 0.301⌋, buckets − 1) for Δ in seconds. T is the context,
whatever the length of the row, so that padding changes nothing. The file needs torch and transformers alone: it is
saved beside the weights, so that `from_pretrained(..., trust_remote_code=True)` works without danlu.

Shapes: B rows, T places, S places looked at, H heads, E width of a head, D width of the model.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

BUCKET_WIDTH = 0.301


class HstuConfig(PreTrainedConfig):
    """Sizes of an HSTU model; `num_time_buckets` 0 leaves time out."""

    model_type = "hstu"

    def __init__(
        self,
        vocab_size: int = 1024,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        max_position_embeddings: int = 200,
        num_time_buckets: int = 64,
        dropout: float = 0.0,
        layer_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        pad_token_id: int | None = 0,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.num_time_buckets = num_time_buckets
        self.dropout = dropout
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.pad_token_id = pad_token_id
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(**kwargs)


class HstuBlock(nn.Module):
    """One block: what is looked at, gated, on the residual path."""

    def __init__(self, config: HstuConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.head_dim = width // self.heads
        self.context = config.max_position_embeddings
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.in_proj = nn.Linear(width, 4 * width)
        self.place_bias = nn.Embedding(config.max_position_embeddings, self.heads)
        self.time_bias = nn.Embedding(config.num_time_buckets, self.heads) if config.num_time_buckets else None
        self.mixed_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.out_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, distance_TS: Tensor, buckets_BTS: Tensor | None) -> Tensor:
        """`distance_TS` is how many places back s is, negative where t may not look; `buckets_BTS` likewise in time."""
        rows, length, width = x_BTD.shape
        mixed = functional.silu(self.in_proj(self.norm(x_BTD)))
        gate_BTD, *parts = mixed.chunk(4, dim=-1)
        value, query, key = (part.view(rows, length, self.heads, self.head_dim).transpose(1, 2) for part in parts)
        scores_BHTS = query @ key.transpose(-1, -2) * self.head_dim**-0.5
        scores_BHTS = scores_BHTS + self.place_bias(distance_TS.clamp(min=0)).permute(2, 0, 1)
        if self.time_bias is not None and buckets_BTS is not None:
            scores_BHTS = scores_BHTS + self.time_bias(buckets_BTS).permute(0, 3, 1, 2)
        weights_BHTS = functional.silu(scores_BHTS) * (distance_TS >= 0) / self.context
        seen_BTD = (weights_BHTS.to(value.dtype) @ value).transpose(1, 2).reshape(rows, length, width)
        return x_BTD + self.dropout(self.out_proj(self.dropout(self.mixed_norm(seen_BTD) * gate_BTD)))


class HstuPreTrainedModel(PreTrainedModel):
    """How weights start and where they are found."""

    config_class = HstuConfig
    base_model_prefix = "model"
    _no_split_modules = ["HstuBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class HstuModel(HstuPreTrainedModel):
    """Item numbers, and perhaps when each was chosen, to hidden states."""

    def __init__(self, config: HstuConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(HstuBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value  # type: ignore[assignment]

    def forward(self, input_ids: Tensor, timestamps: Tensor | None = None, **_: Any) -> BaseModelOutput:
        """`input_ids` (B, T), padding last; `timestamps` (B, T) in seconds. Gives (B, T, D)."""
        length = input_ids.shape[1]
        if length > self.config.max_position_embeddings:
            raise ValueError(f"a row of {length} places is longer than the {self.config.max_position_embeddings} known")
        places_T = torch.arange(length, device=input_ids.device)
        distance_TS = places_T[:, None] - places_T[None, :]
        buckets_BTS = None
        if timestamps is not None and self.config.num_time_buckets:
            gaps_BTS = (timestamps[:, :, None] - timestamps[:, None, :]).clamp(min=0).float()
            buckets_BTS = (gaps_BTS.log1p() / BUCKET_WIDTH).long().clamp(max=self.config.num_time_buckets - 1)
        x_BTD = self.embed_dropout(self.embed_tokens(input_ids) * self.config.hidden_size**0.5)
        for block in self.layers:
            x_BTD = block(x_BTD, distance_TS, buckets_BTS)
        return BaseModelOutput(last_hidden_state=self.norm(x_BTD))


class HstuForCausalLM(HstuPreTrainedModel):
    """HSTU with a plain head over the vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: HstuConfig) -> None:
        super().__init__(config)
        self.model = HstuModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value  # type: ignore[assignment]

    def forward(self, input_ids: Tensor, timestamps: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """Scores of the next item, (B, T, V)."""
        hidden_BTD = self.model(input_ids, timestamps=timestamps).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(hidden_BTD))


AutoConfig.register("hstu", HstuConfig)
AutoModel.register(HstuConfig, HstuModel)
AutoModelForCausalLM.register(HstuConfig, HstuForCausalLM)
HstuConfig.register_for_auto_class()
HstuModel.register_for_auto_class("AutoModel")
HstuForCausalLM.register_for_auto_class("AutoModelForCausalLM")
