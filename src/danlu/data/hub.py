"""Data sets of the Hugging Face hub, through `datasets`, kept on disk by it."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.core.errors import DataError
from danlu.core.hub import hub_reachable
from danlu.data.fingerprints import digest_of
from danlu.data.formats.arrow import ArrowFormat
from danlu.data.places import one_builder, telling_disk_troubles

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def fetch(spec: str, cache: Path) -> list[tuple[Path, str]]:
    """The (file, format) pairs of NAME, NAME:SPLIT or NAME:CONFIG:SPLIT; the split is `train` unless given.

    Raises:
        DataError: no such name, config or split, or the hub cannot be reached; one message for all of them, since a
            hub that is out of reach cannot say whether a name is wrong.
    """
    name, *rest = spec.split(":")
    if not _NAME.fullmatch(name) or len(rest) > 2:
        raise DataError("is neither a file here nor a hub name", where=spec, mend="Check the path, or write NAME:SPLIT")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    return files_of(_load(spec, name, config, split), spec, cache)


def files_of(data: Any, spec: str, cache: Path) -> list[tuple[Path, str]]:
    """The (file, format) pairs that hold a `datasets.Dataset`: its own Arrow files, else a Parquet file in `cache`."""
    kept = [Path(entry["filename"]) for entry in data.cache_files]
    if kept and data._indices is None and sum(map(_num_rows, kept)) == data.num_rows:  # exactly these rows, in order
        return [(path, "arrow") for path in kept]
    path = cache / "hub" / f"{digest_of(spec, data._fingerprint)}.parquet"
    with telling_disk_troubles(cache), one_builder(path):
        if not path.exists():
            aside = path.with_suffix(".aside")
            data.to_parquet(str(aside))
            aside.replace(path)
    return [(path, "parquet")]


def _num_rows(path: Path) -> int:
    return ArrowFormat().count(path, str(path), None)


@contextlib.contextmanager
def _without_waiting() -> Iterator[None]:
    """Where the hub cannot be reached, only what was fetched before is looked at, without half a minute of retries."""
    import datasets.config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    offline = not hub_reachable()
    try:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before[0] or offline, before[1] or offline
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _load(spec: str, name: str, config: str | None, split: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        with _without_waiting():
            return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub client raises dozens of kinds, all of which mean: not to be had
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise DataError(
            f"is not a file here, and the Hugging Face hub does not give it ({reason})",
            where=spec,
            mend="Check the spelling and the connection, or give a file or folder",
        ) from error
