"""Splitting a source into what is trained on and what is judged by."""

import dataclasses
from collections import defaultdict

import numpy as np

from danlu.core.errors import DataError
from danlu.data.config import share_of
from danlu.data.fingerprints import digest_of
from danlu.data.hashing import mix_many
from danlu.data.sources import RowShare, Source, format_named, open_source

_FAR_OFF = 2.0  # tables are split by row when whole files would miss the share by more than this factor
_EXACT_ROWS = 5_000_000


def split_source(source: Source, valid: str, seed: int) -> tuple[Source, Source]:
    """(train, valid): `valid` is a source of its own, or a share of `source` such as `2%`.

    A share is taken by whole files when there are several, so that no file is on both sides: in the order of a hash
    of their content, each is taken that brings the sum of bytes nearer to the share; files with equal content stay
    together. A lone file is split by a hash of the row's place (a lone text by its parts), and so are several files
    of rows (JSONL, CSV, Parquet) whose sizes do not allow a share within a factor of two, or of which one of several
    sources would lose all. Neither side is ever empty.

    Raises:
        DataError: there are too few rows to split.
    """
    share = share_of(valid)
    if share is None:
        other = open_source(valid, cache=source.cache, whole_documents=source.whole_documents)
        return source, _with_overlap_note(source, other)
    groups: dict[str, list[int]] = defaultdict(list)
    for at, digest in enumerate(source.digests):
        groups[digest].append(at)
    if len(groups) == 1:
        return _by_row(source, share, seed)
    chosen, reached = _choose_files(source, groups, share, seed)
    near = share / _FAR_OFF <= reached <= share * _FAR_OFF
    kept = {file.source for at, file in enumerate(source.files) if at not in chosen}
    lost = any(file.source not in kept for file in source.files)
    if (lost or not near) and not any(format_named(file.format).documents for file in source.files):
        return _by_row(source, share, seed)
    note = () if near else (f"valid holds {reached:.1%} of the bytes instead of {valid}, since files are kept whole",)
    return _of_files(source, chosen, False, ()), _of_files(source, chosen, True, note)


def _choose_files(source: Source, groups: dict[str, list[int]], share: float, seed: int) -> tuple[set[int], float]:
    """Which files go to valid, and the share of bytes that they hold."""
    sizes = {digest: sum(source.files[at].num_bytes for at in places) for digest, places in groups.items()}
    total = max(sum(sizes.values()), 1)
    target = share * total
    filled = [digest for digest, size in sizes.items() if size > 0] or list(sizes)
    order = sorted(filled, key=lambda digest: digest_of(seed, "split", digest))
    taken: list[str] = []
    reached = 0
    for digest in order:
        nearer = abs(reached + sizes[digest] - target) < abs(reached - target)
        if nearer and len(taken) < len(order) - 1:
            taken.append(digest)
            reached += sizes[digest]
    if not taken:
        taken = [min(order, key=lambda digest: sizes[digest])]
        reached = sizes[taken[0]]
    return {at for digest in taken for at in groups[digest]}, reached / total


def _of_files(source: Source, chosen: set[int], inside: bool, notes: tuple[str, ...]) -> Source:
    files = tuple(file for at, file in enumerate(source.files) if (at in chosen) == inside)
    return dataclasses.replace(source, files=files, notes=source.notes + notes)


def _by_row(source: Source, share: float, seed: int) -> tuple[Source, Source]:
    rule = RowShare(salt=digest_of(seed, "split"), threshold=int(share * 2**64), below=True)
    counts = [source.num_rows(file) for file in source.files]
    total = sum(counts)
    if total < 2:
        kind = "row" if total else "rows at all"
        raise DataError(
            f"has {total} {kind}, too few to set {share:.3g} of them aside",
            where=source.spec,
            mend="Name a source of its own in data.valid, or add rows",
        )
    if total <= _EXACT_ROWS:
        salts = [rule.file_salt(file.key) for file in source.files]
        hashes = np.concatenate([mix_many(np.arange(count), salt) for salt, count in zip(salts, counts, strict=True)])
        num_valid = min(max(round(share * total), 1), total - 1)
        rule = dataclasses.replace(rule, threshold=int(np.partition(hashes, num_valid)[num_valid]))
    other = dataclasses.replace(rule, below=False)
    return dataclasses.replace(source, share=other), dataclasses.replace(source, share=rule)


def _with_overlap_note(train: Source, valid: Source) -> Source:
    shared = set(train.digests) & set(valid.digests)
    names = [file.name for file, digest in zip(valid.files, valid.digests, strict=True) if digest in shared]
    if not names:
        return valid
    note = f"{len(names)} of valid's files are also in train ({names[0]}): it judges what was learnt by heart"
    return dataclasses.replace(valid, notes=(*valid.notes, note))
