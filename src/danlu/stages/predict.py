"""Predict: one JSON object for each row of a file, in order."""

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from danlu.core.errors import DataError, RunError
from danlu.data.rows import BadField, BadRow, Row
from danlu.data.sources import Source, open_source
from danlu.stages.evaluate import check_writable
from danlu.stages.trained import OpenModel, open_model

FLUSH_SECONDS = 1.0
PREDICTION = "prediction"


def predict(
    model: str | Path,
    *,
    input: str | Path,
    out: Path,
    task: str | None = None,
    options: Mapping[str, object] | None = None,
    column: str = PREDICTION,
    say: Callable[[int], None] | None = None,
) -> int:
    """Writes what `model` makes of each row of `input` as JSON lines, and returns how many there are.

    A line holds the row's own fields and the prediction's (`prediction` and what else the task tells). Rows are read,
    answered and written as they go, so memory does not grow with them. `out` appears at the end, whole; when anything
    stops the work, it is as it was before.

    Args:
        model: a run folder, a model's folder, a .gguf file or a hub name.
        input: a source as in a recipe's `data.train`.
        task: what the model is for, where danlu.json does not say.
        options: the task's own, such as max_tokens, temperature, seed and logprob for text.
        column: what the prediction is called; another name than `prediction` takes the place of the row's own field, so
            that a student can be trained on the file as on the data that it came from.
        say: called now and then with the number of rows done.

    Raises:
        RequestError: there is no such model, an option is not known, or `out` cannot be written.
        DataError: a row that cannot be used, with its file, number and field.
        RunError: the disk is full.
    """
    check_writable(out)
    source = open_source(str(input), whole_documents=True)
    source.peek()
    opened = open_model(model, task=task)
    taught = {name: opened.data[name] for name in opened.task.taught if opened.data.get(name) is not None}
    with _appearing_whole(out) as file:
        return _write(file, _predictions(opened, source, {**taught, **(options or {})}, column), say)


def _predictions(
    opened: OpenModel, source: Source, options: Mapping[str, object], column: str
) -> Iterator[dict[str, object]]:
    """Each row's fields and its prediction's; a row waits only as long as the task holds on to it."""
    waiting: list[Row] = []

    def fields() -> Iterator[Mapping[str, object]]:
        for row in _rows(source):
            waiting.append(row)
            yield opened.task.fields_of(row)

    try:
        for made in opened.task.predict(opened.model, opened.tools, fields(), options):
            row = waiting.pop(0)
            asked_for = {column} - {PREDICTION}
            made = {column if name == PREDICTION else name: value for name, value in made.items()}
            if taken := (made.keys() & row.fields.keys()) - asked_for:
                name = sorted(taken)[0]
                raise BadRow(
                    file=row.file, number=row.number, field=name, problem="has the name of a result", mend="Rename it"
                ).error()
            yield {**_readable(row.fields), **made}
    except BadField as bad:
        raise _refusal(bad.in_row(waiting[-1])) from bad


def _readable(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields without files' bytes, which are no use in a line of text; of {bytes, path} the path is left."""
    shown: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
            shown[name] = value.get("path")
        elif not isinstance(value, bytes):
            shown[name] = value
    return shown


def _rows(source: Source) -> Iterator[Row]:
    def refuse(bad: BadRow) -> None:
        raise _refusal(bad)

    for file in source.files:
        yield from source.rows(file, refuse)


def _refusal(bad: BadRow) -> DataError:
    place = f"{bad.file}, row {bad.number}" + (f", field {bad.field}" if bad.field else "")
    return DataError(bad.problem, where=place, mend=bad.mend)


def _write(file: IO[str], rows: Iterator[dict[str, object]], say: Callable[[int], None] | None) -> int:
    number, told = 0, time.monotonic()
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        number += 1
        if say is not None and time.monotonic() - told > FLUSH_SECONDS:
            told = time.monotonic()
            say(number)
    return number


@contextlib.contextmanager
def _appearing_whole(out: Path) -> Iterator[IO[str]]:
    """A file that takes the name `out` when all is well, and leaves no trace otherwise."""
    aside = out.with_name(f".{out.name}.{os.getpid()}.aside")
    try:
        with aside.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise RunError(f"it cannot be written ({error.strerror})", where=str(out), mend="Give another --out") from error
    finally:
        aside.unlink(missing_ok=True)
