"""What the columns of a text source mean: found by their names, or told by the recipe."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Literal

from danlu.core.errors import DataError, RequestError, nearest

Kind = Literal["text", "prompt", "messages", "image"]

ROLES: dict[str, tuple[str, ...]] = {"messages": ("messages",), "prompt": ("prompt", "response"), "text": ("text",)}
"""The roles that a kind of row must have."""
OPTIONAL: dict[str, tuple[str, ...]] = {"messages": (), "prompt": ("input", "system"), "text": ()}

ALIASES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns"),
    "prompt": ("prompt", "instruction", "question", "query", "source", "input"),
    "response": ("response", "completion", "output", "answer", "target", "reply"),
    "text": ("text", "content", "body", "document", "code", "sentence"),
    "input": ("input", "context"),
    "system": ("system", "system_prompt"),
}
"""Role -> column names that are understood without being told, the likeliest first; case does not matter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """The kind of the rows and the column of each role."""

    kind: Kind
    by_role: Mapping[str, str]

    def __getitem__(self, role: str) -> str:
        return self.by_role[role]


def find_columns(
    fields: Mapping[str, object], *, format: str = "auto", told: Mapping[str, str] | None = None, where: str
) -> Columns:
    """Decides what the columns mean, from the first row's `fields`, the `format` asked for and the roles `told`.

    Tried in this order: messages, prompt with response, text, a lone column of text.

    Raises:
        RequestError: a role that does not exist.
        DataError: a column that is not there, or no way to tell; the message names the nearest.
    """
    told = dict(told or {})
    _check_told(told, fields, where)
    for kind in [format] if format != "auto" else _kinds(told):
        found = _match(kind, fields, told)
        if found is not None:
            return Columns(kind=kind, by_role=found)  # type: ignore[arg-type]
    texts = [name for name, value in fields.items() if isinstance(value, str)]
    if format in ("auto", "text") and not told and len(texts) == 1:
        return Columns(kind="text", by_role={"text": texts[0]})
    kind = format if format != "auto" else _kinds(told)[-1]
    missing = next(role for role in ROLES[kind] if _column(role, fields, told, set()) is None)
    raise DataError(
        f"has no column for {missing!r}; its columns are {', '.join(map(str, fields)) or 'none'}",
        where=where,
        mend=f"Say which it is: data.columns: {{{missing}: {_guess(missing, fields)}}}",
    )


def find_roles(
    fields: Mapping[str, object],
    *,
    needed: Sequence[str],
    optional: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    told: Mapping[str, str],
    where: str,
) -> dict[str, str]:
    """The column of each role of a table, from the first row's `fields`: the one told, else one with a usual name.

    Raises:
        RequestError: a role that does not exist.
        DataError: a column that is not there, or that nobody can guess.
    """
    _check_told(told, fields, where, aliases)
    found: dict[str, str] = {}
    for role in (*needed, *optional):
        column = _column(role, fields, told, set(found.values()), aliases)
        if column is not None:
            found[role] = column
        elif role in needed:
            raise DataError(
                f"has no column for {role!r}; its columns are {', '.join(map(str, fields)) or 'none'}",
                where=where,
                mend=f"Say which it is: data.columns: {{{role}: {_guess(role, fields)}}}",
            )
    return found


def _kinds(told: Mapping[str, str]) -> list[str]:
    """The kinds that fit the roles told, the most particular first."""
    fitting = [kind for kind in ROLES if set(told) <= {*ROLES[kind], *OPTIONAL[kind]}]
    return fitting or list(ROLES)


def _check_told(
    told: Mapping[str, str], fields: Mapping[str, object], where: str, aliases: Mapping[str, Sequence[str]] = ALIASES
) -> None:
    for role, column in told.items():
        if role not in aliases:
            raise RequestError(f"there is no role {role!r}", where="data.columns", mend=nearest(role, aliases))
        if column not in fields:
            raise DataError(f"has no column {column!r}", where=where, mend=nearest(column, map(str, fields)))


def _match(kind: str, fields: Mapping[str, object], told: Mapping[str, str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for role in (*ROLES[kind], *OPTIONAL[kind]):
        column = _column(role, fields, told, set(found.values()))
        if column is not None:
            found[role] = column
        elif role in ROLES[kind]:
            return None
    if kind == "messages" and role not in told and not _like_messages(fields[found["messages"]]):
        return None
    return found


def _column(
    role: str,
    fields: Mapping[str, object],
    told: Mapping[str, str],
    taken: set[str],
    aliases: Mapping[str, Sequence[str]] = ALIASES,
) -> str | None:
    if role in told:
        return told[role]
    by_name = {str(name).lower(): str(name) for name in fields}
    names = (by_name[alias] for alias in aliases[role] if alias in by_name)
    return next((name for name in names if name not in taken and name not in told.values()), None)


def _like_messages(value: object) -> bool:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return isinstance(value, list)


def _guess(role: str, fields: Mapping[str, object]) -> str:
    hint = nearest(role, map(str, fields))
    return hint.split("'")[1] if "'" in hint else next(map(str, fields), "NAME")
