"""Histories: each user's items in order become examples, and items become token numbers.

An example has `input_ids` (T,), `labels` (T,) with the token to be predicted at each place or -100, and `timestamps`
(T,) in seconds. A held-out one also has `seen` (S,), the items that its user had before, and `rating` where ratings
are predicted.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from danlu.core.batch import IGNORED
from danlu.core.errors import DataError
from danlu.core.seeds import seed_of
from danlu.data.fingerprints import digest_of
from danlu.data.interactions import Interactions
from danlu.data.rows import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, MASK = "<pad>", "<mask>"
MOST_LEVELS = 50

Objective = Literal["next", "masked", "rating"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemVocabulary:
    """Token numbers: padding 0, the mask 1, then the levels of rating, then the items, the most chosen first.

    `counts` says how often each item was chosen in the training part.
    """

    items: Sequence[str]
    counts: Sequence[int]
    levels: Sequence[float] = ()
    titles: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "ItemVocabulary":
        """The vocabulary that a tokenizer made by `tokenizer()` holds.

        Raises:
            DataError: it was made for something else.
        """
        kept = tokenizer.init_kwargs
        if "item_counts" not in kept:
            raise DataError("this model's vocabulary holds no items", mend="Give a model trained for recommendation")
        tokens = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        levels = tuple(kept["rating_levels"])
        items = tuple(name for name, _ in tokens[2 + len(levels) :])
        return cls(items=items, counts=tuple(kept["item_counts"]), levels=levels, titles=dict(kept["item_titles"]))

    @property
    def first_item(self) -> int:
        """The token of the most chosen item; what is below it is none."""
        return 2 + len(self.levels)

    @property
    def size(self) -> int:
        return self.first_item + len(self.items)

    @functools.cached_property
    def tokens(self) -> Mapping[str, int]:
        """Item -> token."""
        return {name: token for token, name in enumerate(self.items, self.first_item)}

    def title(self, token: int) -> str:
        """What a person calls the item."""
        name = self.items[token - self.first_item]
        return self.titles.get(name, name)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """As a tokenizer of transformers, to be saved beside a model: it reads ids with blanks between them."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = [PAD, MASK, *(f"<rating {level:g}>" for level in self.levels), *self.items]
        if len(set(words)) < len(words):
            raise DataError(f"an item has the id {PAD}, {MASK} or that of a rating", mend="Rename it")
        core = Tokenizer(models.WordLevel({word: token for token, word in enumerate(words)}))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=core,
            pad_token=PAD,
            mask_token=MASK,
            clean_up_tokenization_spaces=False,
            item_counts=list(self.counts),
            item_titles=dict(self.titles),
            rating_levels=list(self.levels),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequences:
    """N interactions as tokens: user u's are those from `starts_U[u]` up to `starts_U[u + 1]`, oldest first."""

    tokens_N: np.ndarray
    times_N: np.ndarray
    starts_U: np.ndarray
    ratings_N: np.ndarray | None = None
    levels_N: np.ndarray | None = None

    @classmethod
    def of(cls, found: Interactions, vocabulary: ItemVocabulary, *, rated: bool = False) -> "Sequences":
        """With the vocabulary's tokens. An unknown item is -1; it is for the caller to say where it stands."""
        token_of = np.array([vocabulary.tokens.get(name, -1) for name in found.items], dtype=np.int32)
        levels_N = None
        if rated:
            assert found.ratings_N is not None
            nearest_N = np.abs(found.ratings_N[:, None] - np.asarray(vocabulary.levels)[None, :]).argmin(1)
            levels_N = (2 + nearest_N).astype(np.int32)
        return cls(
            tokens_N=token_of[found.items_N],
            times_N=found.times_N,
            starts_U=found.starts(),
            ratings_N=found.ratings_N if rated else None,
            levels_N=levels_N,
        )

    @property
    def fingerprint(self) -> str:
        """Names the content."""
        parts = (self.tokens_N, self.times_N, self.starts_U, self.levels_N)
        return digest_of(*(None if part is None else part.tobytes().hex() for part in parts))


Encode = Callable[[Sequences, int, int], Example]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """Training examples: stretches of `context` places that cover each history, of its training part.

    Neighbours share what lies within `context - stride` of each other. With the objective `masked`, each stretch comes
    `copies` times, with other items hidden each time, a share `mask` of them; which ones depends on `seed` alone.
    """

    sequences: Sequences
    objective: Objective
    spans_W: np.ndarray
    copies: int = 1
    mask: float = 0.0
    seed: int = 0

    @classmethod
    def over(
        cls, sequences: Sequences, objective: Objective, *, context: int, stride: int, held_out: int, **more: float
    ) -> "Windows":
        """Those that leave out the last `held_out` items of each user."""
        width, least = {"next": (context + 1, 2), "masked": (context, 1), "rating": (context // 2, 1)}[objective]
        spans = []
        for begin, end in zip(sequences.starts_U[:-1].tolist(), sequences.starts_U[1:].tolist(), strict=True):
            stop = end - held_out
            while stop - begin >= least:
                start = max(begin, stop - width)
                spans.append((start, stop))
                if start == begin:
                    break
                stop -= min(stride, width - 1) if objective == "next" else min(stride, width)
        if not spans:
            raise DataError("no history is long enough to learn from", where="data.train", mend="Lower task.core")
        return cls(sequences=sequences, objective=objective, spans_W=np.array(spans, dtype=np.int64), **more)  # type: ignore[arg-type]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        interactions_W = self.spans_W[:, 1] - self.spans_W[:, 0]
        lengths_W = {"next": interactions_W - 1, "masked": interactions_W, "rating": 2 * interactions_W}[self.objective]
        return np.tile(lengths_W, self.copies)

    @functools.cached_property
    def fingerprint(self) -> str:
        shape = (self.objective, self.spans_W.tobytes().hex(), self.copies, self.mask, self.seed)
        return digest_of(self.sequences.fingerprint, shape)

    def __len__(self) -> int:
        return len(self.spans_W) * self.copies

    def __getitem__(self, at: int) -> Example:
        copy, window = divmod(at % len(self), len(self.spans_W))
        part = slice(*self.spans_W[window])
        tokens_T, times_T = self.sequences.tokens_N[part], self.sequences.times_N[part]
        if self.objective == "next":
            return {"input_ids": tokens_T[:-1], "labels": tokens_T[1:], "timestamps": times_T[:-1]}
        if self.objective == "rating":
            assert self.sequences.levels_N is not None
            return rated(tokens_T, self.sequences.levels_N[part], times_T)
        random = np.random.default_rng(seed_of(self.seed, "mask", window, copy))
        hidden_T = random.random(len(tokens_T)) < self.mask
        hidden_T[random.integers(len(tokens_T))] |= not hidden_T.any()
        return {
            "input_ids": np.where(hidden_T, 1, tokens_T),
            "labels": np.where(hidden_T, tokens_T, IGNORED),
            "timestamps": times_T,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """One example a user: the item at `targets_U` is to be predicted from those before it, at most `context` places."""

    sequences: Sequences
    objective: Objective
    context: int
    targets_U: np.ndarray
    begins_U: np.ndarray

    @classmethod
    def last(cls, sequences: Sequences, objective: Objective, *, context: int, back: int, least: int) -> "HeldOut":
        """Each user's item `back` places from the end (0: the last), of users with at least `least` items."""
        begins_U, ends_U = sequences.starts_U[:-1], sequences.starts_U[1:]
        long_U = ends_U - begins_U >= least
        if not long_U.any():
            raise DataError(
                f"no user has the {least} items that leave-one-out takes", where="data.train", mend="Lower task.core"
            )
        targets_U = ends_U[long_U] - 1 - back
        return cls(
            sequences=sequences, objective=objective, context=context, targets_U=targets_U, begins_U=begins_U[long_U]
        )

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        before_U = self.targets_U - self.begins_U
        if self.objective == "rating":
            return 2 * np.minimum(before_U + 1, self.context // 2) - 1
        return np.minimum(before_U + (self.objective == "masked"), self.context)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest_of(self.sequences.fingerprint, self.objective, self.context, self.targets_U.tobytes().hex())

    def __len__(self) -> int:
        return len(self.targets_U)

    def __getitem__(self, at: int) -> Example:
        begin, target = int(self.begins_U[at]), int(self.targets_U[at])
        found = self.sequences
        seen, target_token = found.tokens_N[begin:target], found.tokens_N[target]
        if self.objective == "rating":
            assert found.levels_N is not None
            assert found.ratings_N is not None
            part = slice(max(begin, target + 1 - self.context // 2), target + 1)
            example = dict(rated(found.tokens_N[part], found.levels_N[part], found.times_N[part]))
            example = {name: values[:-1] for name, values in example.items()}  # its own rating is not to be seen
            example["labels"] = np.append(np.full(len(example["labels"]) - 1, IGNORED), found.levels_N[target])
            return {**example, "seen": seen, "rating": found.ratings_N[target]}
        asked = ask(seen, found.times_N[begin:target], objective=self.objective, context=self.context)
        labels = np.full(len(asked["input_ids"]), IGNORED)
        labels[-1] = target_token
        return {**asked, "labels": labels, "seen": seen}


def ask(tokens_S: np.ndarray, times_S: np.ndarray, *, objective: Objective, context: int) -> Example:
    """What a model reads to say what comes after a history of tokens: its end, and for `masked` the mask behind it."""
    room = context - (objective == "masked")
    tokens_T, times_T = tokens_S[-room:], times_S[-room:]
    if objective == "masked":
        tokens_T = np.append(tokens_T, 1)
        times_T = np.append(times_T, times_T[-1] if len(times_T) else 0)
    return {"input_ids": tokens_T, "timestamps": times_T}


def rated(tokens_T: np.ndarray, levels_T: np.ndarray, times_T: np.ndarray) -> Example:
    """Items and what they were rated in turn; what is predicted is the level, at the place of its item."""
    labels = np.full(2 * len(tokens_T), IGNORED)
    labels[::2] = levels_T
    return {
        "input_ids": np.stack([tokens_T, levels_T], 1).ravel(),
        "labels": labels,
        "timestamps": np.repeat(times_T, 2),
    }
