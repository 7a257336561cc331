"""Inspect: what is in a source, what is wrong with it, and which settings it asks for. It reads; it trains nothing."""

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import danlu
from danlu.core import discover
from danlu.core.config import read_options
from danlu.core.errors import DataError
from danlu.core.words import count, size
from danlu.data.columns import Columns
from danlu.data.config import DataConfig
from danlu.data.detection import label_text, objects_of
from danlu.data.duplicates import Near, content_key, groups, near_duplicates, near_pictures
from danlu.data.images import load_picture, located
from danlu.data.rows import BadField, BadRow, Row
from danlu.data.sources import Source
from danlu.data.text import strings_in, text_in
from danlu.data.wrong_labels import FOLDS, doubtful_labels
from danlu.stages.report.html import asset, render
from danlu.stages.run_folder import write_atomically
from danlu.tasks.base import Task

NEAR_ROWS = 20_000
"""rows among which near-duplicates are looked for: some seconds of work, and memory that stays small"""
LISTED = 10
SHOWN_CHARACTERS = 160
BYTES_PER_TOKEN = 3.5
"""of text under a usual vocabulary, where no tokenizer was named"""
STEP_TOKENS, MOST_CONTEXT = 8192, 1024
UNEVEN = 4.0
"""times that the commonest label may be as frequent as the rarest before that is worth a setting"""
JOINED = {"text", "prompt", "messages"}
"""roles whose texts share a row of tokens; others, such as query and document, have the context for themselves"""
NOT_TEXT = ("label", "id", "slice")
THUMB = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing to know: `lines` are (what, how it is)."""

    title: str
    lines: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with some rows: how many, what to do about it, and the first of them."""

    title: str
    number: int
    mend: str
    rows: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A setting of the recipe and why."""

    setting: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found."""

    source: str
    task: str
    facts: tuple[Fact, ...]
    faults: tuple[Fault, ...]
    suggestions: tuple[Suggestion, ...]
    samples: tuple[Mapping[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """One good row: where it stands, its text (the first part of it), what it is by content, and its labels.

    Of a picture `thumb` is (32, 32, 3) uint8 and `pixels` its width and height.
    """

    place: str
    text: str
    key: bytes
    labels: tuple[str, ...]
    valid: bool
    num_tokens: float
    num_words: int
    thumb: np.ndarray | None = None
    pixels: tuple[int, int] = (0, 0)

    @property
    def label(self) -> str | None:
        return ", ".join(self.labels) or None


def inspect(
    data: str, *, task: str = "text-generation", out: Path | None = None, overrides: Mapping[str, object] | None = None
) -> Inspection:
    """Reads every row of `data`, and of the part that would be kept aside for validation.

    Args:
        data: a source as in a recipe's `data.train`.
        task: what it is for, which says what the columns mean.
        out: where to write one self-contained page, too.
        overrides: keys of the recipe's data section, such as valid, columns, or tokenizer (to count tokens).

    Raises:
        RequestError: an unknown task or key; datasketch is not installed. DataError: nothing can be read.
    """
    kind = discover.find("danlu.tasks", task, Task, where="task")  # type: ignore[type-abstract]
    config = read_options(DataConfig, {"train": data, **(overrides or {})})
    asked = read_options(kind, {})
    parts = asked.sources(config, 0)
    columns = asked.columns(parts[0].peek()[0].fields, config, parts[0].spec)
    counter, bad = _TokenCounter(config), list[BadRow]()
    rows = [row for part in parts for row in _rows(part, columns, counter, bad, valid=part is parts[1])]
    if not rows:
        raise DataError("holds no row that can be used", where=data, mend="Give a source that has some")
    faults = [fault for fault in (_of_bad(bad), *_doubles(rows), _wrong(rows)) if fault is not None]
    found = Inspection(
        source=data,
        task=kind.kind(),
        facts=(_sizes(parts, rows, bad), _columns(columns), *_lengths(rows, counter), *_balance(rows)),
        faults=tuple(faults),
        suggestions=tuple(_suggestions(rows, faults, counter)),
        samples=tuple({"place": row.place, "label": row.label or "", "text": row.text} for row in rows[:3]),
    )
    if out is not None:
        write_atomically(out, page(found))
    return found


def page(found: Inspection) -> str:
    """One self-contained page."""
    return str(render("inspect", version=danlu.__version__, style=asset("style.css"), found=found))


class _TokenCounter:
    """Counts tokens with the tokenizer that the recipe names, else guesses them from the bytes."""

    def __init__(self, config: DataConfig) -> None:
        self.exact = config.tokenizer is not None and config.tokenizer.from_ is not None
        self._codec: Any = None
        if self.exact:
            from danlu.data.text import Codec
            from danlu.data.tokenizers import make_tokenizer

            self._codec = Codec(make_tokenizer(config.tokenizer, lambda: iter(()), key="", cache=config.cache))

    def __call__(self, text: str) -> float:
        if self._codec is None:
            return len(text.encode("utf-8", "ignore")) / BYTES_PER_TOKEN
        return float(len(self._codec.ids([text])[0]) + len(self._codec.prefix) + len(self._codec.suffix))


def _rows(
    source: Source, columns: Columns, counter: _TokenCounter, bad: list[BadRow], *, valid: bool
) -> Iterator[_Seen]:
    """The good rows; those that cannot be read, or lack what the task needs, go to `bad`."""
    number = 0
    for file in source.files:
        for row in source.rows(file, bad.append):
            try:
                seen = _seen(row, columns, counter, valid)
            except BadField as problem:
                bad.append(problem.in_row(row))
                continue
            number += 1
            yield seen if number <= NEAR_ROWS else dataclasses.replace(seen, text=_short(seen.text))


def _seen(row: Row, columns: Columns, counter: _TokenCounter, valid: bool) -> _Seen:
    roles = columns.by_role
    about = {"place": f"{row.file}, row {row.number}", "valid": valid}
    if "image" in roles:
        return _seen_picture(row, roles, about)
    texts = [column for role, column in roles.items() if role not in NOT_TEXT]
    for column in texts:
        if not isinstance(row.fields.get(column), (list, Mapping, int, float)):
            text_in(row.fields, column)
    values = [row.fields[column] for column in texts]
    values = [str(value) if isinstance(value, (int, float)) else value for value in values]
    text = "\n".join(strings_in(values))
    alone = not JOINED & roles.keys()
    parts = [part for part in (list(strings_in(values)) if alone else [text]) if part]
    return _Seen(
        text=text,
        key=content_key(text),
        labels=_labels(row.fields, roles["label"]) if "label" in roles else (),
        num_tokens=max(map(counter, parts), default=0.0),
        num_words=len(text.split()),
        **about,  # type: ignore[arg-type]
    )


def _seen_picture(row: Row, roles: Mapping[str, str], about: Mapping[str, object]) -> _Seen:
    """A picture, decoded, and its label or its objects, whose boxes must lie inside it."""
    fields = located(row)
    if bad := fields.get("bad"):
        raise BadField(*map(str, bad))  # type: ignore[call-overload]
    picture = load_picture(fields, roles["image"])
    labels: tuple[str, ...] = ()
    if "boxes" in roles:
        given = fields.get(roles["labels"])
        labels = tuple(map(label_text, given)) if isinstance(given, (list, tuple)) else ()
        objects_of(fields, roles, labels, np.array(picture.size[::-1]))
    elif "label" in roles:
        labels = _labels(fields, roles["label"])
    return _Seen(
        text="",
        key=content_key(f"{picture.size}".encode() + picture.tobytes()),
        labels=labels,
        num_tokens=0.0,
        num_words=0,
        thumb=np.asarray(picture.resize((THUMB, THUMB), resample=2)),
        pixels=picture.size,
        **about,  # type: ignore[arg-type]
    )


def _labels(fields: Mapping[str, object], column: str) -> tuple[str, ...]:
    value = fields.get(column)
    if value is None or value == "":
        raise BadField(column, "holds no label", "Fill it")
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)


def _of_bad(bad: Sequence[BadRow]) -> Fault | None:
    rows = tuple(f"{row.file}, row {row.number}: {row.field or 'the row'} {row.problem}" for row in bad[:LISTED])
    mend = "Mend them, or set data.on_bad: skip"
    return Fault(title="broken rows", number=len(bad), mend=mend, rows=rows) if bad else None


def _doubles(rows: Sequence[_Seen]) -> Iterator[Fault | None]:
    """Equal rows, nearly equal ones, those that are on both sides, and those that contradict each other."""
    equal = groups([row.key for row in rows])
    yield _fault("equal rows", "Keep one of each", rows, [(at[0], other, "") for at in equal for other in at[1:]])
    again = {other for at in equal for other in at[1:]}
    places = [at for at in _looked_at(rows) if at not in again]
    near = [(places[pair.first], places[pair.second], f"{pair.similarity:.0%} alike") for pair in _near(rows, places)]
    yield _fault("nearly equal rows", "Keep one of each, unless they are meant", rows, near)
    pairs = [*((at[0], other, "equal") for at in equal for other in at[1:]), *near]
    across = [pair for pair in pairs if rows[pair[0]].valid != rows[pair[1]].valid]
    mend = (
        "Remove them from one side, or name a validation source of its own: the score counts what was learnt by heart"
    )
    yield _fault("rows on both sides of the split", mend, rows, across)
    contrary = [(one, two, f"{rows[one].label} and {rows[two].label}") for one, two, _ in pairs]
    contrary = [pair for pair in contrary if rows[pair[0]].label != rows[pair[1]].label]
    yield _fault("rows alike with different labels", "One label of each pair is likely wrong", rows, contrary)


def _looked_at(rows: Sequence[_Seen]) -> list[int]:
    """The rows to compare with each other, in order: at most `NEAR_ROWS`, half of them of the validation part."""
    kept = [at for at, row in enumerate(rows) if row.valid][: NEAR_ROWS // 2]
    return sorted([*kept, *[at for at, row in enumerate(rows) if not row.valid][: NEAR_ROWS - len(kept)]])


def _near(rows: Sequence[_Seen], places: Sequence[int]) -> Sequence[Near]:
    thumbs = [thumb for at in places if (thumb := rows[at].thumb) is not None]
    if thumbs:
        return near_pictures(np.stack(thumbs))
    return near_duplicates([rows[at].text for at in places]) if any(row.text for row in rows) else []


def _wrong(rows: Sequence[_Seen]) -> Fault | None:
    """Labels that a simple classifier contradicts, where each row has one."""
    places = [at for at in _looked_at(rows) if len(rows[at].labels) == 1]
    if not places or len({rows[at].label for at in places}) > len(places) / FOLDS:
        return None
    thumbs = [thumb for at in places if (thumb := rows[at].thumb) is not None]
    content = np.stack(thumbs) if thumbs else [rows[at].text for at in places]
    doubts = doubtful_labels(content, [rows[at].labels[0] for at in places])
    told = tuple(
        f"{rows[places[doubt.at]].place}: {doubt.given}, rather {doubt.likely} ({1 - doubt.chance:.0%} sure): "
        f"{_short(rows[places[doubt.at]].text)}".rstrip(": ")
        for doubt in doubts[:LISTED]
    )
    mend = "Look at these first; a simple classifier that has not seen them contradicts their labels"
    return Fault(title="likely wrong labels", number=len(doubts), mend=mend, rows=told) if doubts else None


def _fault(title: str, mend: str, rows: Sequence[_Seen], pairs: Sequence[tuple[int, int, str]]) -> Fault | None:
    if not pairs:
        return None
    told = tuple(
        f"{rows[one].place} and {rows[two].place}{f' ({how})' if how else ''}: {_short(rows[two].text)}"
        for one, two, how in pairs[:LISTED]
    )
    return Fault(title=title, number=len(pairs), mend=mend, rows=told)


def _sizes(parts: Sequence[Source], rows: Sequence[_Seen], bad: Sequence[BadRow]) -> Fact:
    kept = sum(row.valid for row in rows)
    files = {(file.path, file.name): file.num_bytes for part in parts for file in part.files}
    lines = [
        ("files", f"{len(files)}, {size(sum(files.values()))}"),
        ("good rows", count(len(rows))),
        ("broken rows", count(len(bad))),
        ("kept aside for validation", f"{count(kept)} ({kept / len(rows):.1%})"),
        *(("note", note) for note in dict.fromkeys(note for part in parts for note in part.notes)),
    ]
    return Fact(title="size", lines=tuple(lines))


def _columns(columns: Columns) -> Fact:
    return Fact(title=f"columns, read as {columns.kind}", lines=tuple(columns.by_role.items()))


def _lengths(rows: Sequence[_Seen], counter: _TokenCounter) -> Iterator[Fact]:
    """Of texts their words and tokens, of pictures their sides; objects a picture where there are boxes."""
    objects = [len(row.labels) for row in rows]
    measured: dict[str, Sequence[float]] = {
        "words": [row.num_words for row in rows],
        "tokens" if counter.exact else "tokens, guessed": [row.num_tokens for row in rows],
        "width in pixels": [row.pixels[0] for row in rows],
        "height in pixels": [row.pixels[1] for row in rows],
        "labels a row": objects if max(objects) > 1 else [],
    }
    lines = tuple((name, _spread(values)) for name, values in measured.items() if any(values))
    yield Fact(title="lengths (least, 5 %, half, 95 %, longest)", lines=lines or (("texts", "none"),))


def _spread(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in (min(values), *(_at(values, q) for q in (5, 50, 95)), max(values)))


def _at(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles([*values, values[-1]], n=100, method="inclusive")[percent - 1]


def _balance(rows: Sequence[_Seen]) -> Iterator[Fact]:
    labels = _counted(rows)
    if not labels:
        return
    total = labels.total()
    lines = [(label, f"{count(number)} ({number / total:.1%})") for label, number in labels.most_common(LISTED)]
    if len(labels) > LISTED:
        lines.append((f"{len(labels) - LISTED} more", f"the rarest of them {min(labels.values())} times"))
    yield Fact(title=f"labels: {len(labels)} different ones", lines=tuple(lines))


def _counted(rows: Sequence[_Seen]) -> Counter[str]:
    return Counter(label for row in rows for label in row.labels)


def _suggestions(rows: Sequence[_Seen], faults: Sequence[Fault], counter: _TokenCounter) -> Iterator[Suggestion]:
    tokens = [row.num_tokens for row in rows if row.num_tokens]
    if tokens:
        most = _at(tokens, 95)
        context = min(MOST_CONTEXT, max(16, 16 * -(-int(most) // 16)))
        longer = "; what is longer than the context is dealt with as data.long says" if most > context else ""
        guess = "" if counter.exact else " by a guess from the bytes; data.tokenizer={from: FOLDER} counts them"
        yield Suggestion(
            setting=f"data.context: {context}",
            reason=f"95 % of the rows have {most:.0f} tokens or fewer{guess}{longer}",
        )
        mean = statistics.fmean(tokens)
        batch = min(128, max(8, 2 ** int(math.log2(max(1.0, STEP_TOKENS / mean)))))
        steps = f"an epoch is about {count(math.ceil(sum(not row.valid for row in rows) / batch))} steps"
        yield Suggestion(
            setting=f"train.batch: {{examples: {batch}}}",
            reason=f"of {mean:.0f} tokens on average, near {count(STEP_TOKENS)} tokens a step; {steps}",
        )
    labels = _counted(rows)
    if 1 < len(labels) <= len(rows) / 10 and max(labels.values()) > UNEVEN * min(labels.values()):
        rarest, commonest = labels.most_common()[-1], labels.most_common(1)[0]
        reason = f"{commonest[0]} is {commonest[1] / rarest[1]:.0f} times as frequent as {rarest[0]}"
        yield Suggestion(setting="task.class_weights: balanced", reason=reason)
        yield Suggestion(setting="task.judge: macro_f1", reason="accuracy hardly notices the rare labels")
    titles = {fault.title: fault.number for fault in faults}
    if "broken rows" in titles:
        yield Suggestion(setting="data.on_bad: skip", reason=f"{titles['broken rows']} rows cannot be used")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
