"""What a recipe says of its model: where it comes from or how it is designed, and what is adapted in it."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from danlu.core.config import Config


class RopeConfig(Config):
    """Rotary positions (Su et al. 2021), for families that have them: `{theta: 500000, scaling: yarn, factor: 4}`."""

    theta: float | None = Field(default=None, gt=0)
    """the base of the wavelengths"""
    scaling: Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope"] | None = None
    """how positions beyond the first training length are read"""
    factor: float | None = Field(default=None, ge=1)
    """how many times longer the context becomes"""
    original_context: int | None = Field(default=None, gt=0)
    """the context before scaling, in tokens"""

    @model_validator(mode="after")
    def _factor_needs_scaling(self) -> Self:
        if self.factor is not None and self.scaling in (None, "default"):
            raise ValueError("factor needs scaling: linear, dynamic, yarn, llama3 or longrope")
        return self


class DesignConfig(Config):
    """A new model of a family of transformers. The universal words are put under the family's own keys.

    What is left out: `kv_heads` equals `heads`; `head_dim` is width / heads; `mlp` keeps the family's own ratio to
    the width, at most 4; all dropout is 0 (it is a technique); the rest is the family's default.
    """

    family: str
    """llama, qwen3, gpt2, mistral, bert, t5, marian, vit ... whatever `AutoConfig` knows"""
    layers: int | None = Field(default=None, gt=0)
    """how many blocks; in an encoder-decoder, of each half"""
    width: int | None = Field(default=None, gt=0)
    """size of the hidden state"""
    heads: int | None = Field(default=None, gt=0)
    """attention heads"""
    kv_heads: int | None = Field(default=None, gt=0)
    """key/value heads, shared by several query heads (Ainslie et al. 2023)"""
    head_dim: int | None = Field(default=None, gt=0)
    """width of one head, where the family lets it differ from width / heads"""
    mlp: int | None = Field(default=None, gt=0)
    """width of the feed-forward part"""
    activation: str | None = None
    """gelu, silu, relu ..."""
    attention: Literal["full"] | int | None = None
    """`full`, or a window in tokens (sliding-window attention) for families that have one"""
    position: RopeConfig | None = None
    """rotary positions, for families that have them"""
    tie: bool | None = None
    """whether the head shares the embedding's weights"""
    options: dict[str, object] = Field(default_factory=dict)
    """the family's own keys, checked against it"""

    @field_validator("attention", mode="before")
    @classmethod
    def _attention(cls, given: object) -> object:
        if isinstance(given, str) and given != "full":
            raise ValueError(f"must be full or a window in tokens, not {given!r}; sdpa and eager go to model.attention")
        if isinstance(given, int) and given <= 0:
            raise ValueError(f"a window must be above zero, not {given}")
        return given


class AdapterConfig(Config):
    """A small trained part beside frozen weights: W + (α/r) B A.

    `lora`: Hu et al. 2021, equation 3. `dora`: magnitude and direction apart (Liu et al. 2024, equation 5). `qlora`:
    the frozen base is kept in `bits` bits (Dettmers et al. 2023).
    """

    kind: Literal["lora", "dora", "qlora"] = "lora"
    """how the change is made"""
    r: int = Field(default=16, gt=0)
    """rank of the change"""
    alpha: float | None = Field(default=None, gt=0)
    """scale of the change; 2r when left out"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """dropout before A"""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """which layers: all but the head, or names such as [q_proj, v_proj]"""
    merge: bool = True
    """fold the change into the weights of `model/`, so that it loads without peft; false writes the adapter alone"""
    bits: Literal[4, 8] = 8
    """of the frozen base, for qlora"""

    @model_validator(mode="after")
    def _bits_are_for_qlora(self) -> Self:
        if "bits" in self.model_fields_set and self.bits != 8 and self.kind != "qlora":
            raise ValueError(f"bits belongs to kind: qlora, not to {self.kind}")
        return self


class ModelConfig(Config):
    """A model that exists (`from`: hub name, folder or .gguf file) or a new one (`design`)."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    from_: str | None = Field(default=None, alias="from")
    """hub name, folder, or .gguf file"""
    design: DesignConfig | None = None
    """a new model, by family"""
    adapter: AdapterConfig | None = None
    """train a small part beside the frozen weights"""
    attention: Literal["auto", "sdpa", "eager", "danlu", "flash_attention_2", "flex_attention"] = "auto"
    """how attention is computed; auto takes what is fastest here"""
    revision: str | None = None
    """branch, tag or commit on the hub"""
    trust_remote_code: bool = False
    """run Python code that comes with the model"""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.from_ is None) == (self.design is None):
            raise ValueError("give either from (a model that exists) or design (a new one)")
        if self.adapter is not None and self.design is not None:
            raise ValueError("an adapter needs a trained model to adapt; use from, not design")
        return self
