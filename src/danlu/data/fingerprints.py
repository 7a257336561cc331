"""Content hashes of files, remembered by (path, size, time of change), so that a file is read once."""

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from danlu.core.errors import DataError
from danlu.data.places import write_text_whole

_SETTLED_NS = 50_000_000  # a file changed less than this ago may change again within the clock's grain
_CHUNK_BYTES = 1 << 20


def digest_of(*parts: object) -> str:
    """A short hexadecimal hash over the words of `parts`."""
    text = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def content_digests(paths: Sequence[Path], cache: Path) -> list[str]:
    """The hash of each file's content. What is known from before and unchanged is not read again."""
    memory = cache / "fingerprints" / f"{digest_of(*paths)}.json"
    known = _remembered(memory)
    now = time.time_ns()
    stamps = {path: _stamp(path) for path in paths}
    unknown = [path for path in stamps if (str(path), *stamps[path]) not in _MET and not _is_known(known, path, stamps)]
    with ThreadPoolExecutor(_READERS) as pool:
        fresh = dict(zip(unknown, pool.map(_content_digest, unknown), strict=True))
    digests = {
        path: fresh.get(path) or _MET.get((str(path), *stamp)) or str(known[str(path)][2])
        for path, stamp in stamps.items()
    }
    settled = {path: digest for path, digest in digests.items() if now - stamps[path][1] > _SETTLED_NS}
    _MET.update({(str(path), *stamps[path]): digest for path, digest in settled.items()})
    entries = {str(path): [*stamps[path], digest] for path, digest in settled.items()}
    if entries and entries != known:
        write_text_whole(memory, json.dumps(entries))
    return [digests[path] for path in paths]


_MET: dict[tuple[str, int, int], str] = {}  # what this process has read, so that parts of a source are not read again
_READERS = 4


def _is_known(known: dict[str, list[object]], path: Path, stamps: dict[Path, tuple[int, int]]) -> bool:
    entry = known.get(str(path))
    return isinstance(entry, list) and entry[:2] == list(stamps[path])


def _remembered(memory: Path) -> dict[str, list[object]]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged: it is only a shortcut
        return {}
    return found if isinstance(found, dict) else {}


def _stamp(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), mend="Check that it is there") from error
    return state.st_size, state.st_mtime_ns


def _content_digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_CHUNK_BYTES):
                digest.update(piece)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), mend="Check its permissions") from error
    return digest.hexdigest()
