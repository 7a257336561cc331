"""What a recipe says about its data."""

import re
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from danlu.core.config import Config
from danlu.core.errors import RequestError

DEFAULT_VOCABULARY = 8192


class TokenizerConfig(Config):
    """The tokenizer: `{from: FOLDER | HUB NAME | FILE.gguf}` or `{train: bpe | unigram, size: 8192}`."""

    model_config = ConfigDict(populate_by_name=True)

    from_: str | None = Field(default=None, alias="from")
    """folder, hub name or .gguf file of an existing tokenizer"""
    train: Literal["bpe", "unigram"] | None = None
    """kind of the tokenizer to train on the training data"""
    size: int = Field(default=DEFAULT_VOCABULARY, ge=300)
    """number of entries of a trained vocabulary, special tokens included"""

    def model_post_init(self, _context: object) -> None:
        if (self.from_ is None) == (self.train is None):
            raise ValueError("give either from (a folder or hub name) or train (bpe or unigram)")
        if self.from_ is not None and "size" in self.model_fields_set:
            raise ValueError("size is for a trained tokenizer; one that is loaded has its own")


class DataConfig(Config):
    """The data of a run: sources, what their columns mean, and how they become rows of tokens."""

    train: str | tuple[str, ...]
    """file, folder, glob, hub name (NAME, NAME:SPLIT or NAME:CONFIG:SPLIT) or builtin:NAME; or a list of them"""
    valid: str = "2%"
    """a share of train such as 2%, or a source"""
    test: str | None = None
    """a source, for `danlu evaluate`"""
    format: Literal["auto", "text", "prompt", "messages"] = "auto"
    """what a row is: a text, a prompt with its response, or chat messages; auto looks at the columns"""
    columns: dict[str, str] = {}
    """role -> column, for columns with other names than the usual: {prompt: question, response: answer}"""
    tokenizer: TokenizerConfig | None = None
    """when absent: the model's own, or for a model designed here a BPE of 8192 entries trained on train"""
    template: str | None = None
    """chat template: a Jinja text, a file that holds one, or `danlu` for danlu's own; when absent the tokenizer's"""
    context: int = Field(default=512, ge=2)
    """tokens of a row at most"""
    packing: Literal["pack", "pad"] = "pack"
    """pack: several short texts share a row, without seeing each other; pad: one text a row, in length buckets"""
    long: Literal["auto", "split", "truncate", "refuse"] = "auto"
    """a text longer than the context; auto: split plain text, refuse a conversation, truncate a text with a label"""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """a row that cannot be used: stop with its place, or skip it and list it in the journal"""
    workers: int | None = Field(default=None, ge=1)
    """processes that tokenise; when absent, chosen from the cores"""
    cache: str | None = None
    """folder for what is tokenised; when absent ~/.cache/danlu"""

    @field_validator("valid")
    @classmethod
    def _share_in_range(cls, valid: str) -> str:
        try:
            share_of(valid)
        except RequestError as error:
            raise ValueError(f"{error.problem}; {error.mend}") from error
        return valid

    @property
    def train_sources(self) -> tuple[str, ...]:
        return (self.train,) if isinstance(self.train, str) else self.train


def share_of(valid: str) -> float | None:
    """The share in (0, 1) when `valid` reads like `2%`; None when it names a source.

    Raises:
        RequestError: a percentage outside (0, 100).
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", valid)
    if found is None:
        return None
    share = float(found.group(1)) / 100
    if not 0 < share < 1:
        raise RequestError(f"{valid} is no share", where="data.valid", mend="Give a percentage between 0% and 100%")
    return share
