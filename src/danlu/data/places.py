"""Where the data room keeps things, and how it writes them: aside first, then renamed; one builder at a time."""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from danlu.core.errors import RequestError, RunError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


def cache_folder(cache: str | Path | None) -> Path:
    """The folder asked for, else `$XDG_CACHE_HOME/danlu`, else `~/.cache/danlu`; it need not exist yet."""
    if cache is not None:
        return Path(cache).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "danlu"


@contextlib.contextmanager
def telling_disk_troubles(folder: Path, *, setting: str = "data.cache") -> Iterator[None]:
    """Turns a full disk or a folder that cannot be written into one clear message.

    Raises:
        RunError: the disk, or the quota on it, is full.
        RequestError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunError(
                "the disk is full; nothing half-written was left there",
                where=str(folder),
                mend=f"Free some space, or set {setting} to a folder on another disk",
            ) from error
        if error.errno in _CLOSED and (error.filename is None or Path(error.filename).is_relative_to(folder)):
            raise RequestError(
                f"cannot write here ({os.strerror(error.errno)})",  # type: ignore[arg-type]
                where=str(folder),
                mend=f"Set {setting} to a folder of your own",
            ) from error
        raise


@contextlib.contextmanager
def one_builder(path: Path) -> Iterator[None]:
    """Only one process at a time is inside for the same `path`; the others wait. A crash lets the next one in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise RequestError(
                f"files cannot be locked here ({error.strerror})",
                where=str(path.parent),
                mend="Set data.cache to a folder on a local disk",
            ) from error
        yield


@contextlib.contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """An empty folder to write in; at the end it is flushed and takes the name `folder`, whatever stood there goes.

    Whatever interrupts the writing, `folder` is either as it was or complete; leftovers of crashed writers are
    removed. Call it within `one_builder(folder)`.
    """
    for leftover in folder.parent.glob(f".{folder.name}.*.aside"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.aside")
    aside.mkdir(parents=True)
    try:
        yield aside
        _flush(aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """Writes a small file so that a reader sees either the old or the new text, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
