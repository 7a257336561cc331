"""Rows to be answered become examples, and what a model makes of them becomes lists."""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from danlu.core.config import Config
from danlu.data.config import DataConfig
from danlu.data.histories import ItemVocabulary, Objective, ask, rated
from danlu.data.interactions import identity, interaction_columns, read_interactions
from danlu.data.rows import BadField, Example
from danlu.data.sources import open_source


class RecommendationOptions(Config):
    """How to answer rows."""

    top: int = Field(default=10, ge=1)
    """items of a list"""
    repeat: bool = False
    """whether what is in the history may be recommended again"""
    table: str | None = None
    """a table of interactions, where rows that give a `user` in the place of a history find it"""
    columns: dict[str, str] = {}
    """role -> column of that table"""
    context: int = Field(default=512, ge=2)
    """places of a history that are read, from its end"""


class Past:
    """What each user of a table chose, and when, oldest first; items that the model does not know are passed over."""

    def __init__(self, asked: RecommendationOptions, vocabulary: ItemVocabulary) -> None:
        self.table = asked.table
        if asked.table is None:
            return
        source = open_source(asked.table)
        columns = interaction_columns(source.peek()[0].fields, asked.columns, source.spec)
        found = read_interactions(source, columns, DataConfig(train=asked.table))
        known_I = np.array([name in vocabulary.tokens for name in found.items])
        self._found = found.kept(known_I[found.items_N])
        self._starts_U, self._timed = self._found.starts(), "time" in columns.by_role
        self._users = {name: at for at, name in enumerate(self._found.users)}

    def completed(self, fields: Mapping[str, object]) -> Mapping[str, object]:
        """The row with its user's history where it has none itself.

        Raises:
            BadField: the table does not hold the user.
        """
        if self.table is None or "history" in fields:
            return fields
        user = identity(fields, "user")
        at, found = self._users.get(user), self._found
        if at is None:
            raise BadField("user", f"{user!r} is not in {self.table}", "Give a `history`, or a table with the user")
        own = slice(int(self._starts_U[at]), int(self._starts_U[at + 1]))
        past: dict[str, object] = {"history": [found.items[item] for item in found.items_N[own]]}
        if self._timed:
            past["times"] = found.times_N[own].tolist()
        if found.ratings_N is not None:
            past["ratings"] = found.ratings_N[own].tolist()
        return {**past, **fields}


def asked_example(
    fields: Mapping[str, object], vocabulary: ItemVocabulary, *, objective: Objective, context: int
) -> Example:
    """A row with `history`, perhaps `times`, and for ratings `ratings` and `item`.

    Raises:
        BadField: it has no history, or holds an item that the model does not know.
    """
    seen = _tokens(fields, vocabulary, least=0 if objective == "rating" else 1)
    if objective == "rating":
        return _asked_rating(fields, seen, vocabulary, context)
    if fields.get("times") is None:
        asked = ask(seen, np.zeros(len(seen), dtype=np.int64), objective=objective, context=context)
        return {"input_ids": asked["input_ids"], "seen": seen}
    times_S = _numbers(fields, "times", len(seen)).astype(np.int64)
    return {**ask(seen, times_S, objective=objective, context=context), "seen": seen}


def told_list(tokens: Sequence[int], scores: Sequence[float], vocabulary: ItemVocabulary) -> dict[str, object]:
    """A list, ready for JSON; what is left out of it scores -inf."""
    kept = [(token, score) for token, score in zip(tokens, scores, strict=True) if score > -np.inf]
    told: dict[str, object] = {
        "prediction": [vocabulary.items[token - vocabulary.first_item] for token, _ in kept],
        "scores": [round(score, 4) for _, score in kept],
    }
    if vocabulary.titles:
        told["titles"] = [vocabulary.title(token) for token, _ in kept]
    return told


def unknown_item(column: str, name: str, vocabulary: ItemVocabulary) -> BadField:
    """The refusal of an item that the vocabulary does not hold."""
    problem = f"holds the item {name!r}, which is not among the {len(vocabulary.items)} that the model knows"
    return BadField(column, problem, "Leave it out, or train again with it")


def _asked_rating(fields: Mapping[str, object], seen: np.ndarray, vocabulary: ItemVocabulary, context: int) -> Example:
    ratings_S = _numbers(fields, "ratings", len(seen))
    levels_S = np.abs(ratings_S[:, None] - np.asarray(vocabulary.levels)).argmin(1) + 2
    name = identity(fields, "item")
    if name not in vocabulary.tokens:
        raise unknown_item("item", name, vocabulary)
    part = slice(-(context // 2), None)
    tokens_T, levels_T = np.append(seen, vocabulary.tokens[name])[part], np.append(levels_S, 2)[part]
    example = rated(tokens_T, levels_T, np.zeros(len(tokens_T)))
    return {"input_ids": example["input_ids"][:-1], "seen": seen}


def _tokens(fields: Mapping[str, object], vocabulary: ItemVocabulary, *, least: int) -> np.ndarray:
    """The tokens of `history`: a list of ids, or a text of ids with blanks between them."""
    value = fields.get("history")
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) < least:
        raise BadField("history", "is not a list of items", 'Give ids, oldest first, as in ["50", "181"]')
    ids = [identity({"history": name}, "history") for name in names]
    for name in ids:
        if name not in vocabulary.tokens:
            raise unknown_item("history", name, vocabulary)
    return np.array([vocabulary.tokens[name] for name in ids], dtype=np.int64)


def _numbers(fields: Mapping[str, object], column: str, count: int) -> np.ndarray:
    value = fields.get(column)
    if not isinstance(value, list) or len(value) != count:
        raise BadField(column, "is not a list as long as the history", "Give a number for each item")
    try:
        return np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise BadField(column, "holds something that is no number", "Give a number for each item") from None
