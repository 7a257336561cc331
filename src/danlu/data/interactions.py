"""Interactions: who chose what and when, read from a table into arrays, in the order of users and time."""

import dataclasses
import datetime
from array import array
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from danlu.core.errors import DataError
from danlu.data.columns import Columns, find_roles
from danlu.data.config import DataConfig
from danlu.data.rows import BadField, BadRow, Row
from danlu.data.sources import Source

ALIASES: dict[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userid", "uid", "session", "session_id", "customer", "customer_id", "reviewerid"),
    "item": ("item", "item_id", "itemid", "iid", "movie_id", "movieid", "product_id", "asin", "track_id", "article_id"),
    "time": ("time", "timestamp", "datetime", "date", "unixreviewtime", "ts"),
    "rating": ("rating", "score", "stars", "overall"),
    "title": ("title", "movie_title", "name", "product_title"),
}
"""role -> column names that are understood without being told"""

Skip = Callable[[BadRow], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interactions:
    """N interactions sorted by user, then time, then item. Codes are places in `users` and `items`.

    Ties in time are broken by the item's id (as a number where all ids are whole numbers), so that the same table
    gives the same order however its rows lie. `times_N` are seconds; 0 throughout where the table has no time, and
    then the order is that of the rows.
    """

    users: Sequence[str]
    items: Sequence[str]
    users_N: np.ndarray
    items_N: np.ndarray
    times_N: np.ndarray
    ratings_N: np.ndarray | None

    def __len__(self) -> int:
        return len(self.items_N)

    def starts(self) -> np.ndarray:
        """(U + 1,) where each user's interactions begin, and where the last one's end."""
        return np.searchsorted(self.users_N, np.arange(len(self.users) + 1))

    def kept(self, keep_N: np.ndarray) -> "Interactions":
        """Those marked; users and items that have none left are gone."""
        users, users_N = _recoded(self.users, self.users_N[keep_N])
        items, items_N = _recoded(self.items, self.items_N[keep_N])
        ratings_N = None if self.ratings_N is None else self.ratings_N[keep_N]
        times_N = self.times_N[keep_N]
        return Interactions(
            users=users, items=items, users_N=users_N, items_N=items_N, times_N=times_N, ratings_N=ratings_N
        )


def interaction_columns(
    fields: Mapping[str, object], told: Mapping[str, str], where: str, *, needed: Sequence[str] = ("user", "item")
) -> Columns:
    """The columns of user, item, and where they are there time and rating.

    Raises:
        DataError, RequestError: as `find_roles`.
    """
    optional = [role for role in ("time", "rating") if role not in needed]
    roles = find_roles(fields, needed=needed, optional=optional, aliases=ALIASES, told=told, where=where)
    return Columns(kind="text", by_role=roles)


def read_interactions(source: Source, columns: Columns, data: DataConfig, *, skip: Skip | None = None) -> Interactions:
    """The whole table as arrays: 20 bytes an interaction, and each user's and item's id once.

    Raises:
        DataError: a row without user or item, or with a time or rating that is none, unless `data.on_bad` is skip.
    """
    on_bad = skip if data.on_bad == "skip" else None
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    users_N, items_N, times_N, ratings_N = array("i"), array("i"), array("q"), array("f")
    has_time, has_rating = ("time" in columns.by_role), ("rating" in columns.by_role)
    for file in source.files:
        for row in source.rows(file, on_bad):
            try:
                user, item = (identity(row.fields, columns[role]) for role in ("user", "item"))
                time = _seconds(row.fields, columns["time"]) if has_time else 0
                rating = _number(row.fields, columns["rating"]) if has_rating else 0.0
            except BadField as bad:
                _refuse(bad, row, on_bad)
                continue
            users_N.append(users.setdefault(user, len(users)))
            items_N.append(items.setdefault(item, len(items)))
            times_N.append(time)
            ratings_N.append(rating)
    if not users_N:
        raise DataError("holds no usable interaction", where=source.spec, mend="Give a table of users and items")
    return _in_order(users, items, users_N, items_N, times_N, ratings_N if has_rating else None, has_time)


def k_core(found: Interactions, least: int) -> Interactions:
    """Only users and items with at least `least` interactions each, dropped in turn until all have."""
    while least > 1 and len(found):
        by_user, by_item = np.bincount(found.users_N), np.bincount(found.items_N)
        keep_N = (by_user[found.users_N] >= least) & (by_item[found.items_N] >= least)
        if keep_N.all():
            break
        found = found.kept(keep_N)
    return found


def first_row_of(source: Source, column: str, value: str) -> Row:
    """The first row that holds `value`, for a message that names its place."""
    for file in source.files:
        for row in source.rows(file, lambda _bad: None):
            if row.fields.get(column) not in (None, "") and identity(row.fields, column) == value:
                return row
    raise LookupError(value)


def read_titles(source: Source, told: Mapping[str, str]) -> dict[str, str]:
    """Item -> title, of a table of items."""
    told = {role: column for role, column in told.items() if role in ("item", "title")}
    fields = source.peek()[0].fields
    told = {role: column for role, column in told.items() if column in fields}
    roles = find_roles(fields, needed=("item", "title"), optional=(), aliases=ALIASES, told=told, where=source.spec)
    rows = (row.fields for file in source.files for row in source.rows(file, lambda _bad: None))
    return {str(fields[roles["item"]]).strip(): str(fields[roles["title"]]).strip() for fields in rows}


def identity(fields: Mapping[str, object], column: str) -> str:
    """An id as text; a float that is a whole number reads like one.

    Raises:
        BadField: it is not there.
    """
    value = fields.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, (dict, list)) or value != value or not (text := str(value).strip()):
        raise BadField(column, "holds no id", "Fill it in")
    return text


def _number(fields: Mapping[str, object], column: str) -> float:
    value = fields.get(column)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise BadField(column, f"is {value!r}, not a number", "Write it as a number") from None
    if not np.isfinite(number):
        raise BadField(column, f"is {value!r}, not a number", "Write it as a number")
    return number


def _seconds(fields: Mapping[str, object], column: str) -> int:
    value = fields.get(column)
    if isinstance(value, datetime.datetime):
        return int(_in_utc(value).timestamp())
    if isinstance(value, datetime.date):
        return int(datetime.datetime.combine(value, datetime.time(), datetime.UTC).timestamp())
    try:
        return int(_number(fields, column))
    except BadField:
        pass
    try:
        return int(_in_utc(datetime.datetime.fromisoformat(str(value).strip())).timestamp())
    except ValueError:
        mend = "Write seconds since 1970, or a date such as 2026-01-31T12:00:00"
        raise BadField(column, f"is {value!r}, not a time", mend) from None


def _in_utc(moment: datetime.datetime) -> datetime.datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _refuse(bad: BadField, row: Row, on_bad: Skip | None) -> None:
    if on_bad is None:
        raise bad.in_row(row).error() from bad
    on_bad(bad.in_row(row))


def _in_order(
    users: Mapping[str, int],
    items: Mapping[str, int],
    users_N: "array[int]",
    items_N: "array[int]",
    times_N: "array[int]",
    ratings_N: "array[float] | None",
    has_time: bool,
) -> Interactions:
    user_names, user_codes = _by_id(users)
    item_names, item_codes = _by_id(items)
    sorted_users_N, sorted_items_N = user_codes[np.asarray(users_N)], item_codes[np.asarray(items_N)]
    seconds_N = np.asarray(times_N, dtype=np.int64)
    keys = (sorted_items_N, seconds_N, sorted_users_N) if has_time else (sorted_users_N,)
    order_N = np.lexsort(keys)
    return Interactions(
        users=user_names,
        items=item_names,
        users_N=sorted_users_N[order_N],
        items_N=sorted_items_N[order_N],
        times_N=seconds_N[order_N],
        ratings_N=None if ratings_N is None else np.asarray(ratings_N, dtype=np.float32)[order_N],
    )


def _by_id(codes: Mapping[str, int]) -> tuple[list[str], np.ndarray]:
    """The ids in order (as numbers where all are), and for each old code the new one."""
    key: Callable[[str], tuple[int, str]] | None = None
    if all(name.isascii() and name.isdigit() for name in codes):
        key = lambda name: (int(name), name)  # noqa: E731
    names = sorted(codes, key=key)
    renumbered = np.empty(len(names), dtype=np.int32)
    renumbered[[codes[name] for name in names]] = np.arange(len(names), dtype=np.int32)
    return names, renumbered


def _recoded(names: Sequence[str], codes_N: np.ndarray) -> tuple[list[str], np.ndarray]:
    used, codes_N = np.unique(codes_N, return_inverse=True)
    return [names[at] for at in used], codes_N.astype(np.int32)
