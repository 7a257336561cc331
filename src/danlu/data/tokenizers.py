"""Tokenizers: loaded from a folder, a hub name or a .gguf file, or trained on the data."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.errors import DataError, RequestError
from danlu.core.hub import hub_reachable
from danlu.data.chat import ROLE_TOKENS
from danlu.data.config import TokenizerConfig
from danlu.data.fingerprints import digest_of
from danlu.data.places import cache_folder, one_builder, telling_disk_troubles, written_aside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, BOS, EOS, UNKNOWN = "<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>"
TRAINING_BYTES = 32 * 1024 * 1024
"""A tokenizer is trained on at most this much text; of more, an evenly spread, deterministic sample is taken."""
_VERSION = 1
_LONGEST_TRAINING_TEXT = 1 << 20

Texts = Callable[[], Iterable[str]]


def make_tokenizer(
    config: TokenizerConfig | None,
    texts: Texts,
    *,
    key: str,
    cache: str | Path | None = None,
    base: str | None = None,
    num_bytes: int | None = None,
) -> "PreTrainedTokenizerBase":
    """The tokenizer that the recipe asks for, with a pad token.

    Args:
        config: what to load or train; None means the tokenizer of `base`, or a trained BPE when there is no base.
        texts: gives the training texts from the start at each call; used only when training.
        key: names the content of `texts`: a tokenizer trained before on the same is taken from the cache.
        base: the model's folder, hub name or .gguf file.
        num_bytes: about how much text there is, for an even sample when it is more than 32 MiB.

    Raises:
        RequestError: nothing can be loaded from there, or there is no text to train on.
    """
    if config is None:
        config = TokenizerConfig.model_validate({"from": base} if base is not None else {"train": "bpe"})
    if config.from_ is not None:
        return load_tokenizer(config.from_)
    name = digest_of("tokenizer", _VERSION, config.model_dump_json(), key)
    folder = cache_folder(cache) / "tokenizers" / name
    with telling_disk_troubles(cache_folder(cache)), one_builder(folder):
        if not (folder / "tokenizer.json").is_file():
            tokenizer = _trained(config, _not_empty(_sample(texts(), num_bytes)))
            with written_aside(folder) as aside:
                tokenizer.save_pretrained(aside)
    return load_tokenizer(str(folder))


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer at a folder, a hub name or a .gguf file; where it has no pad token, the end token serves.

    Raises:
        RequestError: nothing there can be loaded.
    """
    from transformers import AutoTokenizer

    path = Path(name).expanduser()
    try:
        if path.suffix == ".gguf" and path.is_file():
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        elif path.exists():
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=not hub_reachable())
    except Exception as error:  # transformers and the hub client raise many kinds; all mean: not to be had
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise RequestError(
            f"no tokenizer can be loaded from {name!r} ({reason})",
            where="data.tokenizer.from",
            mend="Give a folder with a tokenizer.json or a hub name, or train one: tokenizer: {train: bpe}",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _sample(texts: Iterable[str], num_bytes: int | None) -> Iterator[str]:
    """All texts, or when they are many every so-manieth, evenly spread; very long ones in slices."""
    share = 1.0 if not num_bytes else min(1.0, TRAINING_BYTES / num_bytes)
    seen = used = 0.0
    for text in texts:
        for at in range(0, len(text), _LONGEST_TRAINING_TEXT):
            piece = text[at : at + _LONGEST_TRAINING_TEXT]
            seen += len(piece)
            if used <= seen * share:
                used += len(piece)
                yield piece
            if used > TRAINING_BYTES:
                return


def _not_empty(texts: Iterator[str]) -> Iterator[str]:
    first = next((text for text in texts if text), None)
    if first is None:
        raise DataError("there is no text to train a tokenizer on", where="data.train", mend="Give a source with text")
    return itertools.chain([first], texts)


def _trained(config: TokenizerConfig, texts: Iterable[str]) -> "PreTrainedTokenizerBase":
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    specials = [PAD, BOS, EOS, UNKNOWN, *ROLE_TOKENS]
    core = _bpe(config.size, specials, texts) if config.train == "bpe" else _unigram(config.size, specials, texts)
    bos = core.token_to_id(BOS)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def _bpe(size: int, specials: list[str], texts: Iterable[str]) -> Any:
    """Byte-level BPE (Radford et al. 2019): every text can be written, none needs the unknown token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    return core


def _unigram(size: int, specials: list[str], texts: Iterable[str]) -> Any:
    """Unigram language model (Kudo 2018) over bytes, so that every text can be written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        unk_token=UNKNOWN,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return core


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """The numbers of its begin, end and padding tokens, by the names that a model's config has for them."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name) is not None}
