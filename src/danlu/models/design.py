"""Turns the universal words of a design into the config of one of transformers' families."""

import functools
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.activations import ACT2FN

from danlu.core.errors import RequestError, nearest
from danlu.models.config import DesignConfig, RopeConfig
from danlu.models.origin import quiet

WORDS: Mapping[str, tuple[str, ...]] = {
    "layers": (
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        *("num_decoder_layers", "encoder_layers", "decoder_layers"),
    ),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": (
        *("num_attention_heads", "n_head", "n_heads", "num_heads"),
        *("encoder_attention_heads", "decoder_attention_heads"),
    ),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim", "d_kv"),
    "mlp": (
        *("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "hidden_dim"),
        *("encoder_ffn_dim", "decoder_ffn_dim"),
    ),
    "activation": ("hidden_act", "hidden_activation", "activation_function", "activation", "feed_forward_proj"),
    "tie": ("tie_word_embeddings",),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    "vocabulary": ("vocab_size", "decoder_vocab_size"),
    "window": ("sliding_window",),
}
"""word -> every key under which some family knows it; all that a family has are set (both halves, for example)"""

_OFFSET_FAMILIES = ("roberta", "camembert", "xmod", "longformer", "mpnet", "esm", "luke", "data2vec-text", "ibert")
_DROPOUTS = ("dropout", "pdrop", "drop_rate", "layerdrop", "drop_path")
_MLP_STEP = 32


def family_config(
    design: DesignConfig,
    *,
    vocab_size: int | None,
    context: int | None,
    options: Mapping[str, object],
    special_tokens: Mapping[str, int],
    causal: bool = False,
) -> PreTrainedConfig:
    """The family's config for a design. `options` are the task's (num_labels, ...); the design's own win over them.

    `causal` makes a decoder of a family that can be either, such as bert.

    Raises:
        RequestError: the family or one of the words or options is unknown to it, or the sizes do not fit.
    """
    design = design.model_copy(update={"family": find_family(design.family)})
    defaults = _defaults(design.family)
    given: dict[str, Any] = {key: 0.0 for key, value in defaults.items() if _is_dropout(key, value)}
    given |= _words(design, defaults)
    if context is not None:
        room = int(defaults.get("pad_token_id") or 1) + 1 if _has_offset(design.family) else 0
        given |= dict.fromkeys(_keys("context", defaults), context + room)
    if causal and "is_decoder" in defaults:
        given["is_decoder"] = True
    if vocab_size is not None:
        given |= dict.fromkeys(_keys("vocabulary", defaults), vocab_size)
        given |= _tokens(defaults, special_tokens)
    given |= options
    for key in design.options:
        if key not in defaults:
            raise RequestError(
                f"{design.family} has no key {key!r}", where=f"model.design.options.{key}", mend=nearest(key, defaults)
            )
    try:
        config: PreTrainedConfig = CONFIG_MAPPING[design.family](**(given | design.options))
    except (TypeError, ValueError, KeyError, StrictDataclassError) as error:
        said = str(error).strip().splitlines()[-1].strip().rstrip(".")
        raise RequestError(f"{design.family} refuses this design: {said[:240]}", where="model.design") from None
    return config


def find_family(name: str) -> str:
    """The family's name as transformers spells it.

    Raises:
        RequestError: there is none; with the nearest.
    """
    for spelling in (name, name.lower(), name.replace("-", "_"), name.replace("_", "-")):
        if spelling in CONFIG_MAPPING:
            return spelling
    mend = nearest(name, CONFIG_MAPPING)
    if not mend.startswith("Did you mean"):
        mend = f"transformers knows {len(CONFIG_MAPPING)}, such as llama, qwen3, gpt2, mistral, bert, t5, vit"
    raise RequestError(f"there is no model family {name!r}", where="model.design.family", mend=mend)


@functools.cache
def _defaults(family: str) -> Mapping[str, Any]:
    with quiet():
        config = CONFIG_MAPPING[family]()
    return {key: value for key, value in config.to_dict().items() if key not in ("transformers_version", "model_type")}


def _keys(word: str, defaults: Mapping[str, Any]) -> list[str]:
    return [key for key in WORDS[word] if key in defaults]


def _words(design: DesignConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {word: getattr(design, word) for word in ("layers", "width", "heads", "kv_heads", "head_dim", "mlp", "tie")}
    given: dict[str, Any] = {}
    for word, value in sizes.items():
        if value is not None:
            given |= dict.fromkeys(_known(word, design, defaults), value)
    if design.activation is not None:
        given |= _activation(design, defaults)
    given |= _left_out(design, defaults, given)
    _check_heads(design, {**defaults, **given})
    given |= _window(design, defaults)
    if design.position is not None:
        given |= _rope(design, design.position, defaults)
    return given


def _known(word: str, design: DesignConfig, defaults: Mapping[str, Any]) -> list[str]:
    """The family's keys for a word that is given.

    Raises:
        RequestError: it has none; with the words that it has.
    """
    keys = _keys(word, defaults)
    if keys and not (word == "layers" and "depths" in defaults):
        return keys
    words = [other for other in WORDS if other not in ("context", "vocabulary", "window") and _keys(other, defaults)]
    lists = [key for key, value in defaults.items() if isinstance(value, (list, tuple)) and value]
    instead = [*words, *(f"options: {key}" for key in lists if word == "layers")]
    raise RequestError(
        f"the family {design.family} has no {word}",
        where=f"model.design.{word}",
        mend=f"It has {', '.join(instead)}" if instead else "Give the family's own keys under options",
    )


def _left_out(design: DesignConfig, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that follow from others: the family's defaults belong to its published, much larger model."""
    now: dict[str, Any] = {**defaults, **given}
    made: dict[str, Any] = {}
    width, heads = (_first(word, now) for word in ("width", "heads"))
    if width and heads and design.head_dim is None and (design.width or design.heads) and width % heads == 0:
        made |= dict.fromkeys(_keys("head_dim", defaults), width // heads)
    if design.kv_heads is None and design.heads:
        made |= dict.fromkeys(_keys("kv_heads", defaults), design.heads)
    if design.mlp is None and design.width:
        for key in _keys("mlp", defaults):
            usual = _first("width", defaults)
            if usual and defaults[key]:
                wanted = design.width * min(4.0, defaults[key] / usual)
                made[key] = -(-round(wanted) // _MLP_STEP) * _MLP_STEP
    return made


def _first(word: str, values: Mapping[str, Any]) -> int | None:
    return next((values[key] for key in WORDS[word] if isinstance(values.get(key), int)), None)


def _check_heads(design: DesignConfig, values: Mapping[str, Any]) -> None:
    width, heads, kv_heads, head_dim = (_first(word, values) for word in ("width", "heads", "kv_heads", "head_dim"))
    own_head_dim = design.head_dim or any(key in design.options for key in WORDS["head_dim"])
    if width and heads and not own_head_dim and width % heads:
        fits = [number for number in range(1, width + 1) if width % number == 0]
        near = min(fits, key=lambda number: (abs(number - heads), number))
        raise RequestError(
            f"{heads} heads do not divide the width {width}",
            where="model.design.heads",
            mend=f"Take {near} heads, or a width of {-(-width // heads) * heads}",
        )
    if heads and kv_heads and heads % kv_heads:
        fits = [number for number in range(1, heads + 1) if heads % number == 0]
        raise RequestError(
            f"{kv_heads} kv_heads do not divide the {heads} heads",
            where="model.design.kv_heads",
            mend=f"Take one of {', '.join(map(str, fits))}",
        )
    size = head_dim or (width // heads if width and heads else None)
    if size and size % 2 and "rope_parameters" in values:
        raise RequestError(
            f"rotary positions of {design.family} need heads of even width, not {size}",
            where="model.design.heads",
            mend="Choose width and heads so that width / heads is even",
        )


def _activation(design: DesignConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    keys = _known("activation", design, defaults)
    name = str(design.activation)
    if name.removeprefix("gated-") not in ACT2FN:
        mend = nearest(name, ACT2FN)
        raise RequestError(f"there is no activation {name!r}", where="model.design.activation", mend=mend)
    return dict.fromkeys(keys, name)


def _window(design: DesignConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    if design.attention is None or (design.attention == "full" and "sliding_window" not in defaults):
        return {}
    if "sliding_window" not in defaults:
        raise RequestError(
            f"the family {design.family} has no sliding window",
            where="model.design.attention",
            mend="Use full, or a family that has one: mistral, qwen3, gemma3_text",
        )
    window = None if design.attention == "full" else design.attention
    made: dict[str, Any] = {"sliding_window": window}
    if "use_sliding_window" in defaults:
        made |= {"use_sliding_window": window is not None, "max_window_layers": 0}
    return made


def _rope(design: DesignConfig, rope: RopeConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    if "rope_parameters" not in defaults:
        raise RequestError(
            f"the family {design.family} has no rotary positions",
            where="model.design.position",
            mend="Leave position out, or choose a family that has them, such as llama or qwen3",
        )
    before = dict(defaults["rope_parameters"] or {})
    names = {"theta": "rope_theta", "scaling": "rope_type", "factor": "factor"}
    names["original_context"] = "original_max_position_embeddings"
    said = {names[word]: value for word, value in rope.model_dump(exclude_none=True).items()}
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0} | before | said}


def _is_dropout(key: str, value: object) -> bool:
    return isinstance(value, float) and any(word in key for word in _DROPOUTS)


def _has_offset(family: str) -> bool:
    """Families whose first position is not 0 but the padding token's number plus one."""
    return any(word in family for word in _OFFSET_FAMILIES)


def _tokens(defaults: Mapping[str, Any], special_tokens: Mapping[str, int]) -> dict[str, int | None]:
    """Token numbers of our tokenizer in place of the family's, whose vocabulary is another.

    What nobody gave (where a decoder starts, for example) follows the token that the family takes for it.
    """
    ours = {name if name.endswith("_token_id") else f"{name}_token_id": entry for name, entry in special_tokens.items()}
    made: dict[str, int | None] = {}
    for key, usual in defaults.items():
        if not key.endswith("_token_id"):
            continue
        same = [name for name in ("pad_token_id", "eos_token_id", "bos_token_id") if defaults.get(name) == usual]
        follows = next((ours[name] for name in same if name in ours), None) if usual is not None else None
        made[key] = ours.get(key, follows)
    return made | ours
