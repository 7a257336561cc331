"""Source: files of rows, wherever they come from. `open_source` finds them, `Source.rows` reads them."""

import dataclasses
import functools
import glob
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from danlu.core.discover import find, paths
from danlu.core.errors import DataError, nearest
from danlu.data.digits import digits_detection
from danlu.data.fingerprints import content_digests, digest_of
from danlu.data.formats.base import COMPRESSIONS, Format
from danlu.data.formats.parallel import sides
from danlu.data.hashing import mix
from danlu.data.places import cache_folder, telling_disk_troubles
from danlu.data.rows import BadRow, Row

FORMATS = "danlu.data.formats"
LARGEST_PART_BYTES = 64 * 1024
SMALLEST_PART_BYTES = 1024
PARTS_OF_A_LONE_FILE = 64

OnBad = Callable[[BadRow], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of source number `source`. `name` is how people know it, `key` its place inside, `format` who reads it.

    Parallel text is one of them: its path has braces, `train.{en,de}`, and stands for several files on disk.
    """

    path: Path
    name: str
    key: str
    format: str
    num_bytes: int
    source: int = 0

    @property
    def on_disk(self) -> tuple[Path, ...]:
        return tuple(sides(self.path).values()) if self.format == "parallel" else (self.path,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """The rows [start, stop) of a file, counted from 0 over good and bad ones; all from `start` when stop is None."""

    file: SourceFile
    start: int = 0
    stop: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShare:
    """Those rows whose hash is below (or not below) `threshold`, a number in [0, 2**64]; `salt` varies the hash."""

    salt: str
    threshold: int
    below: bool

    def holds(self, file_salt: int, ordinal: int) -> bool:
        return (mix(file_salt + ordinal) < self.threshold) == self.below

    def file_salt(self, key: str) -> int:
        return int(digest_of(self.salt, key)[:16], 16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Files and how to read them. `share` limits it to some of the rows; `notes` are worth telling the person.

    Documents (plain text files) above 64 KiB come in parts, which the cache joins again; a lone file comes in about
    64 parts, so that a share of it can be split off. `whole_documents` turns that off.
    """

    spec: str
    files: tuple[SourceFile, ...]
    cache: Path
    share: RowShare | None = None
    whole_documents: bool = False
    notes: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @functools.cached_property
    def digests(self) -> tuple[str, ...]:
        """The content hash of each file."""
        with telling_disk_troubles(self.cache):
            known = iter(content_digests([path for file in self.files for path in file.on_disk], self.cache))
        found = [[next(known) for _ in file.on_disk] for file in self.files]
        return tuple(digests[0] if len(digests) == 1 else digest_of(*digests) for digests in found)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides which rows are read and what they hold."""
        files = [(file.key, file.format, digest) for file, digest in zip(self.files, self.digests, strict=True)]
        return digest_of(files, self.share, [self.part_bytes(file) for file in self.files])

    def part_bytes(self, file: SourceFile) -> int | None:
        """The size of the parts in which a document comes; None when it comes whole."""
        if self.whole_documents:
            return None
        if len(self.files) > 1:
            return LARGEST_PART_BYTES
        unpacked = file.num_bytes * (4 if file.path.suffix in COMPRESSIONS else 1)  # a guess is good enough
        return min(max(unpacked // PARTS_OF_A_LONE_FILE, SMALLEST_PART_BYTES), LARGEST_PART_BYTES)

    def rows(self, file: SourceFile | Span, on_bad: OnBad | None = None) -> Iterator[Row]:
        """The rows of one file, or of a span of it, in order.

        Raises:
            DataError: a row that cannot be read, unless `on_bad` takes it; a file that cannot be read.
        """
        span = file if isinstance(file, Span) else Span(file=file)
        file = span.file
        salt = self.share.file_salt(file.key) if self.share else 0
        kept_before = False
        begin = max(span.start - 1, 0)  # one row earlier, to know whether the first continues it
        found_rows = format_named(file.format).rows(file.path, file.name, self.part_bytes(file), begin)
        for ordinal, found in enumerate(found_rows, begin):
            if ordinal == span.stop:
                return
            kept, kept_before = kept_before, self.share is None or self.share.holds(salt, ordinal)
            if not kept_before:
                continue
            if isinstance(found, BadRow):
                kept_before = False
                if ordinal >= span.start:
                    _handle(found, on_bad)
            elif ordinal >= span.start:
                split = found.part.joined and not kept
                yield found._replace(part=found.part._replace(joined=False)) if split else found

    def __iter__(self) -> Iterator[Row]:
        for file in self.files:
            yield from self.rows(file)

    def peek(self, num_rows: int = 1) -> list[Row]:
        """The first good rows; bad ones are passed over.

        Raises:
            DataError: there is no good row at all.
        """
        bad: list[BadRow] = []
        seen: list[Row] = []
        for file in self.files:
            for row in self.rows(file, bad.append):
                seen.append(row)
                if len(seen) == num_rows:
                    return seen
        if seen:
            return seen
        if bad:
            raise bad[0].error()
        raise DataError("holds no rows", where=self.spec, mend="Give a source that has some")

    def num_rows(self, file: SourceFile) -> int:
        """All rows of a file, bad ones included, whatever the share."""
        return format_named(file.format).count(file.path, file.name, self.part_bytes(file))


def open_source(spec: str | Sequence[str], *, cache: str | Path | None = None, whole_documents: bool = False) -> Source:
    """The source that `spec` names: file, folder, glob, `builtin:NAME` or hub name; or several of them.

    Files of a folder are taken by their endings, in the order of their names; hidden ones are left out. A hub name is
    NAME, NAME:SPLIT or NAME:CONFIG:SPLIT, with or without `hub:` before it. `train.{en,de}` names files that translate
    each other line by line.

    Raises:
        DataError: nothing is there, or nothing that can be read; the message names the nearest that is.
    """
    specs = [spec] if isinstance(spec, str) else list(spec)
    if not specs:
        raise DataError("no source is given", where="data.train", mend="Name a file, a folder or builtin:python-stdlib")
    folder = cache_folder(cache)
    files = [dataclasses.replace(file, source=at) for at, one in enumerate(specs) for file in _find(one, folder)]
    return Source(spec=", ".join(specs), files=tuple(files), cache=folder, whole_documents=whole_documents)


def _handle(bad: BadRow, on_bad: OnBad | None) -> None:
    if on_bad is None:
        raise bad.error()
    on_bad(bad)


def format_named(name: str) -> Format:
    """The reader of a format."""
    return _class_of(name)()


def _class_of(name: str) -> type[Format]:
    return find(FORMATS, name, Format)  # type: ignore[type-abstract]


@functools.cache
def formats_by_suffix() -> dict[str, str]:
    """File ending → name of the format that reads it."""
    return {suffix: name for name in paths(FORMATS) for suffix in _class_of(name).suffixes}


def _find(spec: str, cache: Path) -> list[SourceFile]:
    if spec.startswith("builtin:"):
        return _builtin(spec, cache)
    path = Path(spec).expanduser()
    if spec.startswith("hub:"):
        return _hub(spec, cache)
    if path.is_dir():
        return _in_folder(path, spec)
    if path.exists():
        return [_file(path, spec, path.name)]
    if parts := sides(path):
        return [_parallel(path, list(parts.values()), spec)]
    if glob.has_magic(spec):
        found = sorted(entry for entry in map(Path, glob.glob(str(path), recursive=True)) if entry.is_file())
        if not found:
            raise DataError("no file matches", where=spec, mend="Check the pattern; ** matches any depth of folders")
        return [_file(entry, str(entry), str(entry)) for entry in found]
    if _looks_local(spec):
        raise DataError("there is no such file or folder", where=spec, mend=_nearby(path))
    return _hub(spec, cache)


def _format_of(path: Path) -> str | None:
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return formats_by_suffix().get(bare.suffix.lower())


def _file(path: Path, name: str, key: str) -> SourceFile:
    form = _format_of(path) or _guess(path, name)
    return SourceFile(path=path.resolve(), name=name, key=key, format=form, num_bytes=path.stat().st_size)


def _parallel(path: Path, parts: Sequence[Path], spec: str) -> SourceFile:
    missing = next((part for part in parts if not part.is_file()), None)
    if missing is not None:
        raise DataError(f"there is no file {missing}", where=spec, mend=_nearby(missing))
    num_bytes = sum(part.stat().st_size for part in parts)
    return SourceFile(path=path.absolute(), name=spec, key=path.name, format="parallel", num_bytes=num_bytes)


def _guess(path: Path, name: str) -> str:
    with path.open("rb") as file:
        start = file.read(4096)
    if b"\0" in start:
        known = ", ".join(sorted(formats_by_suffix())[:8]) + ", ..."
        raise DataError("is neither text nor of a known format", where=name, mend=f"Known endings are {known}")
    return "text"


def _in_folder(folder: Path, spec: str) -> list[SourceFile]:
    visible = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    readable = _alike([path for path in visible if _format_of(path)], spec)
    if not readable:
        endings = sorted({path.suffix or path.name for path in visible})
        problem = (
            f"the folder holds no file of a known format, only {', '.join(endings[:5])}" if endings else "is empty"
        )
        raise DataError(problem, where=spec, mend="Give a folder with images or .txt, .jsonl, .csv or .parquet files")
    return [_file(path, str(Path(spec) / (key := path.relative_to(folder).as_posix())), key) for path in readable]


_COMPANIONS = {"readme", "license", "licence", "changelog", "citation", "dataset_info", "state", "dataset_infos"}


def _alike(found: list[Path], spec: str) -> list[Path]:
    """The files without the notes that lie beside tables; documents and tables together are refused.

    Pictures count where they outnumber the texts and no table is there: a table beside pictures names them.

    Raises:
        DataError: what such a mixture means cannot be guessed.
    """
    pictures = {path for path in found if format_named(str(_format_of(path))).pictures}
    tables = [path for path in found if path not in pictures and not format_named(str(_format_of(path))).documents]
    if pictures and not tables and 2 * len(pictures) > len(found):
        return [path for path in found if path in pictures]
    found = [path for path in found if path not in pictures]
    if not tables:
        return found
    named = [path for path in found if path.name.split(".")[0].lower() not in _COMPANIONS]
    documents = [path for path in named if path not in set(tables)]
    if documents:
        table, document = tables[0], documents[0]
        raise DataError(
            f"the folder holds both texts ({len(documents)}, such as {document.name}) and tables ({len(tables)}, such "
            f"as {table.name})",
            where=spec,
            mend=f"Say which with a pattern: {Path(spec) / '**' / ('*' + document.suffix)}",
        )
    return [path for path in named if path in set(tables)] or tables


def _looks_local(spec: str) -> bool:
    return (
        spec.startswith(("/", "./", "../", "~"))
        or spec.endswith("/")
        or spec.count("/") > 1
        or _format_of(Path(spec)) is not None
        or (spec.count("/") == 1 and Path(spec).parent.is_dir())
    )


def _nearby(path: Path) -> str:
    parent = path.parent
    while not parent.is_dir():
        if parent == parent.parent:
            break
        parent = parent.parent
    if parent != path.parent:
        return f"The folder {path.parent} is not there either"
    names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    return nearest(path.name, names) if len(names) <= 200 else "Check the name"


_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def python_stdlib() -> Iterable[tuple[Path, str]]:
    """The .py files of this Python's standard library and their places in it, in the order of these.

    The library's own tests are left out: some systems do not install them, and the text must be the same everywhere.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[Path, str]] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _LEFT_OUT]
        places = (Path(folder) / name for name in names if name.endswith(".py"))
        found.extend((path, path.relative_to(root).as_posix()) for path in places if path.is_file())
    return sorted(found, key=lambda pair: pair[1])


TEST_SHARE = 0.25


def _of_side(test: bool) -> Iterable[tuple[Path, str]]:
    """Whole packages and modules of the standard library, a quarter of them for the test by a hash of their names."""
    for path, key in python_stdlib():
        top = key.partition("/")[0].removesuffix(".py")
        if (int(digest_of("python-docstrings", top)[:8], 16) / 2**32 < TEST_SHARE) == test:
            yield path, key


def _digits(part: Literal["train", "test"], cache: Path) -> Iterable[tuple[Path, str]]:
    path = digits_detection(part, cache)
    return [(path, path.name)]


def _highway(cache: Path) -> Iterable[tuple[Path, str]]:
    from danlu.data.highway import highway

    path = highway(cache)
    return [(path, path.name)]


BUILTINS: dict[str, Callable[[Path], Iterable[tuple[Path, str]]]] = {
    "python-stdlib": lambda _cache: python_stdlib(),
    "python-docstrings": lambda _cache: _of_side(False),
    "python-docstrings-test": lambda _cache: _of_side(True),
    "digits-detection": functools.partial(_digits, "train"),
    "digits-detection-test": functools.partial(_digits, "test"),
    "highway": _highway,
}
"""Name → files and their places; what has to be made is kept in the cache"""
_READ_AS = {"python-docstrings": "docstrings", "python-docstrings-test": "docstrings"}
"""the format of those that are read otherwise than by their ending"""


def _builtin(spec: str, cache: Path) -> list[SourceFile]:
    name = spec.partition(":")[2]
    if name not in BUILTINS:
        raise DataError(f"there is no builtin source {name!r}", where=spec, mend=nearest(name, BUILTINS))
    found = [_file(path, f"{name}/{key}", key) for path, key in BUILTINS[name](cache)]
    if name in _READ_AS:
        found = [dataclasses.replace(file, format=_READ_AS[name]) for file in found]
    if not found:
        raise DataError(
            "this Python comes without the source of its standard library", where=spec, mend="Give a file or folder"
        )
    return found


def _hub(spec: str, cache: Path) -> list[SourceFile]:
    from danlu.data.hub import fetch

    name = spec.removeprefix("hub:")
    return [
        SourceFile(path=path, name=f"{name}/{path.name}", key=path.name, format=form, num_bytes=path.stat().st_size)
        for path, form in fetch(name, cache)
    ]
