"""What tasks that align a language model do to their data: split, tokenizer, and both parts encoded once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from danlu.data.cache import KeyedEncoder, encode_as_told
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.examples import Examples
from danlu.data.text import texts_of
from danlu.data.tokenizers import make_tokenizer
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
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        specials = {name: getattr(self.tokenizer, name) for name in names}
        return {
            "tools": self.tokenizer,
            "padded": True,
            "vocab_size": len(self.tokenizer),
            "special_tokens": {name: number for name, number in specials.items() if number is not None},
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
    tokenizer = make_tokenizer(
        data.tokenizer,
        lambda: texts_of(train, columns),
        key=f"{train.fingerprint} {columns}",
        cache=data.cache,
        base=base,
        num_bytes=train.num_bytes,
    )
    say(f"tokenising {train.num_bytes / 1e6:.1f} MB")
    encoder, skipped = make_encoder(tokenizer, columns), []  # type: ignore[var-annotated]
    parts = [encode_as_told(part, encoder, data, skipped) for part in (train, valid)]
    return EncodedParts(parts[0], parts[1], tokenizer, columns, skipped)
