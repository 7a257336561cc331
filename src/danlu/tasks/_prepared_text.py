"""What tasks do to texts: their tokenizer, and for those that align a language model both parts encoded once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from danlu.data.cache import KeyedEncoder, encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.examples import Examples
from danlu.data.sources import Source
from danlu.data.text import texts_of
from danlu.data.tokenizers import make_tokenizer, special_tokens
from danlu.tasks.base import Task


class EncodedParts(NamedTuple):
    """Training and validation examples, the tokenizer, what the columns mean, and the rows that were left out."""

    train: Examples
    valid: Examples
    tokenizer: Any
    columns: Columns
    skipped: list[Mapping[str, object]]

    @property
    def for_prepared(self) -> dict[str, Any]:
        """What every `Prepared` of text says alike."""
        return {
            "tools": self.tokenizer,
            "padded": True,
            "vocab_size": len(self.tokenizer),
            "special_tokens": special_tokens(self.tokenizer),
            "facts": {
                "train_examples": len(self.train),
                "train_tokens": self.train.num_tokens,
                "train_truncated": self.train.truncated.count,
                "valid_examples": len(self.valid),
                "valid_tokens": self.valid.num_tokens,
                "skipped_rows": len(self.skipped),
                "vocab_size": len(self.tokenizer),
            },
            "skipped": self.skipped,
        }


def tokenizer_for(
    data: DataConfig,
    train: Source,
    columns: Columns,
    *,
    base: str | None,
    texts: Callable[[Source, Columns], Iterable[str]] = texts_of,
) -> Any:
    """The tokenizer of `base` or of the recipe; one that is to be trained reads the `texts` of the training data."""
    return make_tokenizer(
        data.tokenizer,
        lambda: texts(train, columns),
        key=f"{train.fingerprint} {columns}",
        cache=data.cache,
        base=base,
        num_bytes=train.num_bytes,
    )


def encoded_parts(
    task: Task,
    data: DataConfig,
    make_encoder: Callable[[Any, Columns], KeyedEncoder],
    *,
    seed: int,
    base: str | None,
    say: Callable[[str], None],
) -> EncodedParts:
    """Splits the source, gets the tokenizer of `base` or of the recipe, and encodes both parts."""
    say(f"reading {', '.join(data.train_sources)}")
    train, valid = task.sources(data, seed)
    columns = task.columns(train.peek()[0].fields, data, train.spec)
    tokenizer = tokenizer_for(data, train, columns, base=base)
    say(f"tokenising {train.num_bytes / 1e6:.1f} MB")
    encoder, skipped = make_encoder(tokenizer, columns), []  # type: ignore[var-annotated]
    parts = [encode_as_told(part, encoder, data, skipped) for part in (train, valid)]
    return EncodedParts(parts[0], parts[1], tokenizer, columns, skipped)
