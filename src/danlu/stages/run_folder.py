"""The folder of one run: where it lies, and the files that are not the journal's."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from danlu.core.errors import RequestError


def new_run_folder(name: str, out: Path | None) -> Path:
    """Makes `out`, or the next free `runs/NAME/NUMBER`.

    Raises:
        RequestError: `out` holds something already, or cannot be written.
    """
    try:
        return _claim_next(Path("runs") / name) if out is None else _claim(out)
    except OSError as error:
        raise RequestError(
            f"the run's folder cannot be written ({error.strerror})",
            where=str(error.filename or out),
            mend="Give another with --out",
        ) from None


def run_to_resume(name: str, run: Path | None) -> Path:
    """`run`, or the newest of `runs/NAME`.

    Raises:
        RequestError: there is no such run.
    """
    run = run or newest(name, what="run")
    if not (run / "journal.jsonl").is_file():
        raise RequestError("this is no run folder: it has no journal.jsonl", where=str(run), mend="Name a run's folder")
    return run


def newest(name: str, *, what: str) -> Path:
    """The newest numbered folder in `runs/NAME`.

    Raises:
        RequestError: there is none.
    """
    found = [path for path in (Path("runs") / name).glob("*") if path.name.isdigit()]
    if not found:
        raise RequestError(f"there is no {what} to resume in runs/{name}", mend="Start it without --resume")
    return max(found, key=lambda path: int(path.name))


def write_atomically(path: Path, text: str) -> None:
    """Writes aside, then renames: a reader sees the old file or the new one, never a half."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_summary(folder: Path, summary: Mapping[str, object]) -> None:
    """Writes `summary.json`."""
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def _claim(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(
            "there is something in it already", where=str(out), mend="Give another --out, or --resume that run"
        )
    out.mkdir(parents=True, exist_ok=True)
    return out


def _claim_next(parent: Path) -> Path:
    """The next number, taken by making the folder, so that two runs at once never share one."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in parent.iterdir() if re.fullmatch(r"\d+", p.name)), default=0)
    while True:
        number += 1
        try:
            (parent / str(number)).mkdir()
        except FileExistsError:
            continue
        return parent / str(number)
