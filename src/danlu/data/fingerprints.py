"""Content hashes of files, remembered by (path, size, time of change), so that a file is read once."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

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
    digests, fresh = [], False
    for path in paths:
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns]
        entry = known.get(str(path))
        if entry is None or entry[:2] != stamp:
            entry = [*stamp, _content_digest(path)]
            if time.time_ns() - state.st_mtime_ns > _SETTLED_NS:
                known[str(path)] = entry
                fresh = True
        digests.append(str(entry[2]))
    if fresh:
        write_text_whole(memory, json.dumps(known))
    return digests


def _remembered(memory: Path) -> dict[str, list[object]]:
    try:
        return json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged: it is only a shortcut
        return {}


def _content_digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
