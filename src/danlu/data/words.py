"""A shortcut for tokenizers that cut a text into words before all else: each different word is encoded once.

A corpus has some ten thousand different words, met millions of times. Python's `re` cuts the text as the tokenizer
would, a dictionary gives each word's tokens, and the Rust tokenizer is asked only for words that are new. The tokens
are the same; whether they are is not taken on trust: the shortcut is used only for kinds of tokenizers for which it is
known to hold, and only after both ways agreed on thousands of odd little texts.

Two facts make it exact. A word's tokens do not depend on its neighbours (the pre-tokenizer decides the words, the
model sees one word at a time). And no word reaches across a cut before a space that a visible character follows, so
that a stretch between two such cuts with other than ASCII characters can be given to the tokenizer whole: Python's and
Rust's ideas of letters need to agree on ASCII only. Texts with special tokens in them, or not in Unicode's composed
form (NFC, to which some tokenizers bring it), go to the Rust tokenizer as they are.
"""

import json
import re
import threading
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from danlu.data.hashing import mix

MOST_WORDS = 1 << 18
"""Words remembered at most; then all are forgotten, so that memory stays flat."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_AFTER_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
_BEFORE_VISIBLE = r" \S"
_BEFORE_VISIBLE_BUT_DIGITS = r" [!-/:-~]"
_SPACES = r" \t\n\r\f\v"
_ASCII = {"L": "A-Za-z", "N": "0-9", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": ""}
_ODD = (
    " ",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "a",
    "B",
    "zz",
    "1",
    "23",
    "'s",
    "'",
    ".",
    "(",
    "_",
    "é",
    "丹",
    "½",
    "\u00a0",
    "\u0301",
)
_NUM_TRIALS = 1500


class Words:
    """Encodes texts word by word with a memory; made by `shortcut_for`, safe in threads, cheap to pickle."""

    def __init__(self, rust: Any, dtype: np.dtype, pattern: str, cut: str, special: Sequence[str]) -> None:
        self._rust = rust
        self._dtype = dtype
        self._ascii = re.compile(pattern)
        other = rf" ?(?:(?!{cut})[\x00-\x7f])*[^\x00-\x7f](?:(?!{cut}).)*"
        self._mixed = re.compile(f"(?s:{other})|{pattern}")
        self._special = tuple(special)
        self._special_starts = tuple({token[:2] for token in special})
        self._known: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, without special tokens around it; the arrays are read-only."""
        with self._lock:
            cut = [self._cut(text) if self._is_plain(text) else None for text in texts]
            self._learn(set().union(*(words for words in cut if words is not None)))
            get = self._known.__getitem__
            plain = iter(self._plainly([text for text, words in zip(texts, cut, strict=True) if words is None]))
            return [
                next(plain) if words is None else np.frombuffer(b"".join(map(get, words)), dtype=self._dtype)
                for words in cut
            ]

    def _cut(self, text: str) -> list[str]:
        return (self._ascii if text.isascii() else self._mixed).findall(text)

    def _is_plain(self, text: str) -> bool:
        """True when it holds no special token, and nothing that the tokenizer would normalise."""
        if any(start in text for start in self._special_starts) and any(token in text for token in self._special):
            return False
        return text.isascii() or unicodedata.is_normalized("NFC", text)

    def _learn(self, words: set[str]) -> None:
        new = list(words.difference(self._known))
        if len(self._known) + len(new) > MOST_WORDS:
            self._known.clear()
            new = list(words)
        self._known.update(zip(new, (ids.tobytes() for ids in self._plainly(new)), strict=True))

    def _plainly(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._rust.encode_batch_fast(texts, add_special_tokens=False) if texts else []
        return [np.array(encoding.ids, dtype=self._dtype) for encoding in encodings]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}, "_lock": None, "_rust": self._rust.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.__dict__.update({**state, "_lock": threading.Lock(), "_rust": Tokenizer.from_str(state["_rust"])})


def shortcut_for(rust: Any, dtype: np.dtype) -> Words | None:
    """The shortcut for a Rust tokenizer (without cutting and filling up); None where it is not sure to be exact."""
    described = json.loads(rust.to_str())
    kind = _kind(described)
    special = [token["content"] for token in described.get("added_tokens", [])]
    if kind is None or any(not token or re.search(r"\s", token) for token in special):
        return None
    pattern = _in_ascii(kind[0])
    if pattern is None:
        return None
    words = Words(rust, dtype, pattern, kind[1], special)
    texts = _odd_texts()
    plain = rust.encode_batch_fast(texts, add_special_tokens=False)
    agreed = all(encoding.ids == ids.tolist() for encoding, ids in zip(plain, words.ids(texts), strict=True))
    return words if agreed else None


def _kind(described: dict[str, Any]) -> tuple[str, str] | None:
    """(pattern that cuts words, pattern of where a stretch ends) of a described tokenizer, if it is of a known kind."""
    model, steps = described["model"], described.get("pre_tokenizer") or {}
    if described.get("normalizer") not in (None, {"type": "NFC"}) or model.get("dropout"):
        return None
    if model.get("type") not in ("BPE", "Unigram", "WordLevel"):
        return None
    *before, last = steps.get("pretokenizers", [steps])
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if not before:
        return (_GPT2, _BEFORE_VISIBLE) if last.get("use_regex", True) else None
    if len(before) > 1:
        return None
    first = before[0]
    if first == {"type": "Digits", "individual_digits": True} and last.get("use_regex", True):
        return _GPT2_AFTER_DIGITS, _BEFORE_VISIBLE_BUT_DIGITS
    isolated = first.get("type") == "Split" and first.get("behavior") == "Isolated" and not first.get("invert")
    pattern = first.get("pattern", {}).get("Regex") if isolated else None
    return (pattern, _BEFORE_VISIBLE) if pattern and not last.get("use_regex", True) else None


def _in_ascii(pattern: str) -> str | None:
    """The pattern with its classes of letters and digits written out for ASCII; None when it holds anything unknown."""
    result, inside = [], False
    for token in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        named = _ASCII.get(token[3:-1]) if token.startswith(r"\p") else None
        if token.startswith((r"\p", r"\P")) and named is None:
            return None
        if named is not None:
            token = named if inside else f"[{named}]" if named else "(?!)"
        elif token == r"\s":
            token = _SPACES if inside else f"[{_SPACES}]"
        elif token == r"\S":
            if inside:
                return None
            token = f"[^{_SPACES}]"
        elif token in "[]":
            inside = token == "["
        result.append(token)
    try:
        return re.compile("".join(result)).pattern if not re.compile("".join(result)).groups else None
    except re.error:
        return None


def _odd_texts() -> list[str]:
    """Little texts made to break wrong cuts, the same each time."""
    return [
        "".join(_ODD[mix(trial * 100 + at) % len(_ODD)] for at in range(1 + mix(trial) % 12))
        for trial in range(_NUM_TRIALS)
    ]
