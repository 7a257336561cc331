"""Policy: which action to take, from the last few observations, each a set of objects or a vector.

    e_t = ego of Encoder({A(o_t1), B(o_t2), ..., B(o_tN)})        (objects see each other, absent ones are masked)
    x_t = e_t + E_action(a_{t-1}) + w · return-to-go_t            (the last two only where asked for)
    logits_t = W · Decoder(x_1, ..., x_t)_t

The objects have no order: every one but the first (the vehicle that is driven) is embedded alike. With return-to-go
it is a Decision Transformer (Chen et al. 2021, arXiv:2106.01345) whose three tokens of a step are added up to one and
whose head is discrete. The decoder is transformers' Llama. The file needs torch and transformers alone: it is saved
beside the weights, so that `from_pretrained(..., trust_remote_code=True)` works without danlu.

Shapes: B rows, K steps, N objects, F features, A actions, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, LlamaConfig, LlamaModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class PolicyConfig(PreTrainedConfig):
    """Sizes of a policy. `shift` and `scale` (2 × F: of the first object, of the others) rescale the features."""

    model_type = "policy"

    def __init__(
        self,
        hidden_size: int = 64,
        intermediate_size: int | None = None,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 4,
        object_layers: int = 2,
        max_position_embeddings: int = 4,
        num_objects: int = 1,
        num_features: int = 1,
        shift: list[list[float]] | None = None,
        scale: list[list[float]] | None = None,
        past_actions: bool = False,
        return_scale: float | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.object_layers = object_layers
        self.max_position_embeddings = max_position_embeddings
        self.num_objects = num_objects
        self.num_features = num_features
        self.shift = shift
        self.scale = scale
        self.past_actions = past_actions
        self.return_scale = return_scale
        self.initializer_range = initializer_range
        super().__init__(**kwargs)


class ObjectEncoder(nn.Module):
    """A set of objects → one vector, where the first object stands; features are rescaled first."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        width, features = config.hidden_size, config.num_features
        self.register_buffer("shift_2F", torch.tensor(config.shift or [[0.0] * features] * 2))
        self.register_buffer("scale_2F", torch.tensor(config.scale or [[1.0] * features] * 2))
        self.embed = nn.ModuleList(
            nn.Sequential(nn.Linear(features, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(2)
        )
        layer = nn.TransformerEncoderLayer(
            width,
            config.num_attention_heads,
            config.intermediate_size or 4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        layers = config.object_layers if config.num_objects > 1 else 0
        self.mix = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False) if layers else None

    def forward(self, objects_RNF: Tensor) -> Tensor:
        """(R, N, F) → (R, D); an object whose features are all zero is not there."""
        absent_RN = (objects_RNF == 0).all(-1)
        absent_RN[:, 0] = False
        shift_2F, scale_2F = self.get_buffer("shift_2F"), self.get_buffer("scale_2F")
        first_R1D = self.embed[0]((objects_RNF[:, :1] - shift_2F[0]) * scale_2F[0])
        if self.mix is None:
            return first_R1D[:, 0]
        others_RND = self.embed[1]((objects_RNF[:, 1:] - shift_2F[1]) * scale_2F[1])
        objects_RND = torch.cat([first_R1D, others_RND], 1)
        return self.mix(objects_RND, src_key_padding_mask=absent_RN)[:, 0]


class PolicyModel(PreTrainedModel):
    """Scores of the actions at the last step of each row."""

    config_class = PolicyConfig
    base_model_prefix = "policy"
    main_input_name = "observations"
    _supports_sdpa = True

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        width, actions = config.hidden_size, int(config.num_labels or 1)
        self.encoder = ObjectEncoder(config)
        self.action_embed = nn.Embedding(actions + 1, width) if config.past_actions else None
        self.return_embed = nn.Linear(1, width) if config.return_scale else None
        decoder = LlamaConfig(
            vocab_size=1,
            hidden_size=width,
            intermediate_size=config.intermediate_size or 4 * width,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
        )
        decoder._attn_implementation = config._attn_implementation
        self.decoder = LlamaModel(decoder)
        self.decoder.set_input_embeddings(nn.Identity())  # steps come as vectors; a table never used would upset DDP
        self.head = nn.Linear(width, actions)
        self.post_init()

    def forward(
        self,
        observations: Tensor,
        attention_mask: Tensor,
        past_actions: Tensor | None = None,
        returns: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Scores of the action to take at the last step of each row.

        Args:
            observations: (B, K, N, F), padded behind.
            attention_mask: (B, K) int64, 1 for steps that are there.
            past_actions: (B, K) int64, the action before each step; -1 where there was none.
            returns: (B, K), the return still to come.
        """
        rows, steps = attention_mask.shape
        x_BKD = self.encoder(observations.flatten(0, 1)).view(rows, steps, -1)
        if self.action_embed is not None and past_actions is not None:
            x_BKD = x_BKD + self.action_embed(past_actions + 1)
        if self.return_embed is not None and returns is not None:
            x_BKD = x_BKD + self.return_embed(returns.unsqueeze(-1) / self.config.return_scale)
        hidden_BKD = self.decoder(inputs_embeds=x_BKD, attention_mask=attention_mask, use_cache=False).last_hidden_state
        last_B = attention_mask.sum(1) - 1
        return SequenceClassifierOutput(logits=self.head(hidden_BKD[torch.arange(rows, device=last_B.device), last_B]))


AutoConfig.register("policy", PolicyConfig)
AutoModel.register(PolicyConfig, PolicyModel)
PolicyConfig.register_for_auto_class()
PolicyModel.register_for_auto_class("AutoModel")
