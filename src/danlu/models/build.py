"""Builds a model: loaded or designed, in fp32, with its adapter."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from danlu.core.errors import RequestError, nearest
from danlu.core.seeds import seed_of
from danlu.models.config import DesignConfig, ModelConfig
from danlu.models.design import family_config
from danlu.models.families import register_families
from danlu.models.origin import Origin, as_plain, find_origin, kind_errors

_CAUSAL = "AutoModelForCausalLM"
_WHOLE = (_CAUSAL, "AutoModelForSeq2SeqLM")
_NOTES = ("image_mean", "image_std")
"""options that are no family's own keys: a loaded model's config is given them afterwards"""
_BUILT_WITH = {"auto": "sdpa", "danlu": "sdpa"}
register_families()


def build_model(
    config: ModelConfig,
    *,
    auto_class: str,
    vocab_size: int | None = None,
    context: int | None = None,
    options: Mapping[str, object] | None = None,
    special_tokens: Mapping[str, int] | None = None,
    seed: int = 0,
    frozen_dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """The model that `config` asks for, on the CPU, ready to train: fp32, all weights or the adapter's alone.

    `vocab_size` and `special_tokens` are the tokenizer's; a loaded model whose embedding is too small is enlarged.
    `options` are config keys that the task needs (num_labels, id2label). New weights depend on `seed` alone.
    `frozen_dtype` is that of the frozen linear layers under an adapter (bf16 halves them).

    Raises:
        RequestError: something is unknown, does not fit, is not there, or needs a library that is not installed.
    """
    options, special_tokens = dict(options or {}), dict(special_tokens or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "model"))
        if config.design is not None:
            sizes = {"vocab_size": vocab_size, "context": context}
            made = _design(config.design, auto_class, options, special_tokens, **sizes)
            return _from_config(made, auto_class, config)
        model, fresh = _from_pretrained(config, auto_class, options)
        _check_whole(model, auto_class, fresh)
        _check_context(model, context)
        if vocab_size is not None:
            _enlarge(model, vocab_size)
        if config.adapter is None:
            return model
        from danlu.models.adapters import adapt  # peft takes a while to import

        adapted = adapt(model, config.adapter, auto_class=auto_class, fresh=fresh, frozen_dtype=frozen_dtype)
        return cast(PreTrainedModel, adapted)  # it hands on whatever it does not know to the model inside


def sketch_model(
    config: ModelConfig,
    *,
    auto_class: str,
    vocab_size: int | None = None,
    context: int | None = None,
    options: Mapping[str, object] | None = None,
) -> PreTrainedModel:
    """The same model without any weights (on torch's meta device): for `explain`, which only counts.

    An adapter is left out: `num_parameters` counts the base. GGUF files are not read.
    """
    options = dict(options or {})
    if config.design is not None:
        made = _design(config.design, auto_class, options, {}, vocab_size=vocab_size, context=context)
    else:
        origin = find_origin(str(config.from_), revision=config.revision)
        with kind_errors(origin):
            made = transformers.AutoConfig.from_pretrained(origin.name, **_common(config, origin), **options)
    with torch.device("meta"):
        return _from_config(made, auto_class, config)


def auto_class_of(name: str) -> Any:
    """transformers' Auto class of this name.

    Raises:
        RequestError: there is none.
    """
    if not name.startswith("Auto") or not hasattr(transformers, name):
        known = [entry for entry in dir(transformers) if entry.startswith("AutoModel")]
        raise RequestError(f"transformers has no class {name!r}", mend=nearest(name, known))
    return getattr(transformers, name)


def _design(
    design: DesignConfig,
    auto_class: str,
    options: Mapping[str, object],
    special_tokens: Mapping[str, int],
    *,
    vocab_size: int | None,
    context: int | None,
) -> PreTrainedConfig:
    return family_config(
        design,
        vocab_size=vocab_size,
        context=context,
        options=options,
        special_tokens=special_tokens,
        causal=auto_class == _CAUSAL,
    )


def _from_config(made: PreTrainedConfig, auto_class: str, config: ModelConfig) -> PreTrainedModel:
    auto = auto_class_of(auto_class)
    mapping = auto._model_mapping  # names alone: the public way imports every family there is
    able = sorted({*mapping._model_mapping, *(known.model_type for known in mapping._extra_content)})
    if made.model_type not in able:
        close = nearest(made.model_type, able)
        raise RequestError(
            f"the family {made.model_type} has no {auto_class}",
            where="model.design.family",
            mend=close if close.startswith("Did") else f"{len(able)} families have one, such as {', '.join(able[:6])}",
        )
    return _with_attention(auto.from_config, config, "model.attention", made, dtype=torch.float32)


def _from_pretrained(
    config: ModelConfig, auto_class: str, options: Mapping[str, object]
) -> tuple[PreTrainedModel, list[str]]:
    """The model and the names of its weights that were not in the file, such as a new classifier's."""
    origin = find_origin(str(config.from_), revision=config.revision)
    if origin.adapter:
        raise RequestError(
            f"{origin.name} holds an adapter alone, not a model",
            where="model.from",
            mend="Train with adapter: {merge: true}, or give the model that it belongs to",
        )
    auto = auto_class_of(auto_class)
    keys = {key: value for key, value in options.items() if key not in _NOTES}
    with kind_errors(origin):
        loaded = _with_attention(
            auto.from_pretrained,
            config,
            "model.attention",
            origin.name,
            dtype=torch.float32,
            output_loading_info=True,
            **_common(config, origin),
            **keys,
        )
    model, info = loaded
    for key in options.keys() - keys.keys():
        setattr(model.config, key, options[key])
    return as_plain(model, origin), sorted(info["missing_keys"])


def _common(config: ModelConfig, origin: Origin) -> dict[str, Any]:
    common: dict[str, Any] = {"trust_remote_code": config.trust_remote_code, **origin.options()}
    if config.revision is not None:
        common["revision"] = config.revision
    return common


def _with_attention(make: Any, config: ModelConfig, where: str, *args: Any, **kwargs: Any) -> Any:
    """Calls `make` with the attention asked for; `auto` and `danlu` begin with sdpa, or eager where there is none."""
    wanted = _BUILT_WITH.get(config.attention, config.attention)
    try:
        return make(*args, attn_implementation=wanted, **kwargs)
    except (ValueError, ImportError) as error:
        if "ttention" not in str(error) and "flash" not in str(error):
            raise
        if config.attention == "auto":
            return make(*args, attn_implementation="eager", **kwargs)
        said = str(error).strip().splitlines()[0].rstrip(".")
        raise RequestError(f"{config.attention} does not work here: {said}", where=where, mend="Use auto") from error


def _check_whole(model: PreTrainedModel, auto_class: str, fresh: Sequence[str]) -> None:
    """A new classifier's weights may be missing, a language model's may not; nor may it see what it is to predict."""
    if auto_class == _CAUSAL and getattr(model.config, "is_decoder", True) is False:
        raise RequestError(
            f"{model.config.model_type} reads in both directions, so it cannot write text from left to right",
            where="model.from",
            mend="Choose a causal language model, or another task for this one",
        )
    if auto_class in _WHOLE and fresh:
        raise RequestError(
            f"the file lacks {len(fresh)} weights of {type(model).__name__}, such as {fresh[0]}",
            where="model.from",
            mend="It was saved from another kind of model; choose one that was made for this task",
        )


def _check_context(model: PreTrainedModel, context: int | None) -> None:
    """Learned positions end where training ended; rotary and relative ones may be asked for more."""
    limit = getattr(model.config, "max_position_embeddings", None)
    rotary = getattr(model.config, "rope_parameters", None)
    if context is not None and isinstance(limit, int) and context > limit and not rotary:
        raise RequestError(
            f"the model knows {limit} positions, fewer than the context of {context}",
            where="data.context",
            mend=f"Set it to {limit} or less",
        )


def _enlarge(model: PreTrainedModel, vocab_size: int) -> None:
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding) and embedding.num_embeddings < vocab_size:
        model.resize_token_embeddings(vocab_size, mean_resizing=False)
