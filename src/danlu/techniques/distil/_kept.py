"""Kept: what a teacher said of each example, on disk, so that it need say it only once."""

import struct
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from danlu.core.batch import IGNORED, Batch
from danlu.core.errors import RunError
from danlu.data.places import telling_disk_troubles

_HEADER = struct.Struct("<qqII")  # example, its inputs, targets, CRC-32 of all the rest


class Said(NamedTuple):
    """Of one example's n targets, the K likeliest outcomes: log-probabilities (n, K + 1), and which they are (n, K)."""

    log_probs: np.ndarray
    indices: np.ndarray


class Shown(NamedTuple):
    """An example, a hash of its inputs, and how many targets it has."""

    example: int
    inputs: int
    num_targets: int


class Kept:
    """Records in files that are only ever appended to, one a process; each reads all of them.

    A record is found by its example and checked by a hash of the inputs that the teacher was shown. What an
    interrupted writer, or one that is still at it, left incomplete does not count: a record holds its own length and
    checksum. Log-probabilities are kept in fp16, so a target costs 2 (K + 1) + 2 K bytes (4 K where there are more
    than 65,536 outcomes). Opening reads the headers alone.
    """

    def __init__(self, folder: Path, *, k: int, num_outcomes: int, where: str) -> None:
        self.folder, self.where = folder, where
        self.k, self.num_outcomes = k, num_outcomes
        self._kind = np.dtype("<u2" if num_outcomes <= 2**16 else "<u4")
        self._own = folder / f"{uuid.uuid4().hex}.said"
        self._read_upto: dict[Path, int] = {}
        self._places: dict[int, tuple[Path, int]] = {}
        self._scan()

    def __len__(self) -> int:
        return len(self._places)

    def find(self, shown: Sequence[Shown]) -> list[Said] | None:
        """What was said of each example, in order; None when any is missing.

        Raises:
            RunError: an example was shown to the teacher with other inputs.
        """
        if any(one.example not in self._places for one in shown):
            self._scan()  # other processes write too
        found = [self._one(one) for one in shown if one.example in self._places]
        whole = [said for said in found if said is not None]
        return whole if len(whole) == len(shown) else None

    def add(self, shown: Sequence[Shown], said: Sequence[Said]) -> list[Said]:
        """Keeps what was said of examples, and returns it as it will be found."""
        records = [self._record(one, entry) for one, entry in zip(shown, said, strict=True)]
        with telling_disk_troubles(self.folder, setting=f"{self.where}.folder"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._own.open("ab") as file:
                start = file.tell()
                try:
                    file.write(b"".join(records))
                    file.flush()
                except OSError:
                    file.truncate(start)
                    raise
        self._scan()
        kept = self.find(shown)
        assert kept is not None
        return kept

    def _record(self, shown: Shown, said: Said) -> bytes:
        parts = (said.log_probs.astype("<f2").tobytes(), said.indices.astype(self._kind).tobytes())
        head = struct.pack("<qqI", *shown)
        return head + struct.pack("<I", zlib.crc32(b"".join((head, *parts)))) + b"".join(parts)

    def _size(self, num_targets: int) -> int:
        return num_targets * (2 * (self.k + 1) + self._kind.itemsize * self.k)

    def _scan(self) -> None:
        """Learns where the records are that were added since the last time."""
        for path in sorted(self.folder.glob("*.said")):
            size, at = path.stat().st_size, self._read_upto.get(path, 0)
            if size <= at:
                continue
            with path.open("rb") as file:
                while at + _HEADER.size <= size:
                    file.seek(at)
                    example, _, num_targets, _ = _HEADER.unpack(file.read(_HEADER.size))
                    end = at + _HEADER.size + self._size(num_targets)
                    if end > size:
                        break
                    self._places.setdefault(example, (path, at))
                    at = end
            self._read_upto[path] = at

    def _one(self, asked: Shown) -> Said | None:
        path, at = self._places[asked.example]
        with path.open("rb") as file:
            file.seek(at)
            head = file.read(_HEADER.size)
            *shown, checksum = _HEADER.unpack(head)
            body = file.read(self._size(shown[-1]))
        if zlib.crc32(head[: -struct.calcsize("<I")] + body) != checksum:
            del self._places[asked.example]  # damaged: the teacher says it again
            return None
        if Shown(*shown) != asked:
            raise RunError(
                f"example {asked.example} was shown to the teacher with other inputs than now",
                where=f"{self.where}.cache",
                mend="Turn it off: something (an augmentation, token_dropout) changes the examples as they are drawn",
            )
        split = asked.num_targets * (self.k + 1) * 2
        return Said(
            np.frombuffer(body[:split], "<f2").reshape(-1, self.k + 1),
            np.frombuffer(body[split:], self._kind).reshape(-1, self.k),
        )


def shown_of(batch: Batch) -> list[Shown]:
    """The batch's examples that have targets. The hash of their inputs does not depend on the padding."""
    hashes_B = torch.zeros_like(batch.targets_B)
    for name, field in sorted(batch.inputs.items()):
        if not isinstance(field, Tensor) or name == "position_ids":  # these are given only where rows are shared
            continue
        whole = field.view(torch.int32) if field.is_floating_point() else field
        real_BT = _real(field, batch)
        whole_BN = (whole if real_BT is None else whole * real_BT).flatten(1).long()
        places_N = torch.arange(1, whole_BN.shape[1] + 1, device=whole_BN.device)
        hashes_B = hashes_B * 31 + (whole_BN * (places_N * 0x9E3779B1 ^ places_N >> 3)).sum(1)
    rows = zip(batch.example_ids_B.tolist(), hashes_B.tolist(), batch.targets_B.tolist(), strict=True)
    return [Shown(*row) for row in rows if row[-1]]


def _real(field: Tensor, batch: Batch) -> Tensor | None:
    """What of (B, T) is no padding, which comes last: all up to the last target, where no mask says it."""
    mask_BT, tokens_BT = batch.inputs.get("attention_mask"), batch.labels.get("tokens")
    if isinstance(mask_BT, Tensor) and mask_BT.shape == field.shape:
        return mask_BT
    if isinstance(tokens_BT, Tensor) and tokens_BT.shape == field.shape:
        return (tokens_BT != IGNORED).long().flip(1).cummax(1).values.flip(1)
    return None
